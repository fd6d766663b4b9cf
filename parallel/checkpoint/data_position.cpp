#include "parallel/checkpoint/data_position.h"

#include <filesystem>
#include <sstream>

#include "core/log.h"
#include "data/files.h"
#include "data/hash.h"

namespace upcycle {
namespace {

constexpr std::size_t max_bytes = 4096;

std::string path_in(const std::string& run_dir) { return run_dir + "/data_position"; }

std::string text_of(const std::string& step, const DataPosition& p) {
  const std::string line = fmt::format("{} consumed_samples {} skipped_steps {} skipped_in_a_row {}", step,
                                       p.consumed_samples, p.skipped_steps, p.skipped_in_a_row);
  return fmt::format("{}\n{}\n", line, hash_bytes(line.data(), line.size()));
}

}  // namespace

void write_data_position(const std::string& run_dir, const std::string& step, const DataPosition& position) {
  write_text_atomic(path_in(run_dir), text_of(step, position));
}

std::optional<DataPosition> read_data_position(const std::string& run_dir, const std::string& step) {
  const std::string path = path_in(run_dir);
  if (!std::filesystem::exists(path)) return {};
  const bool long_one = open_regular_file(path).size() > max_bytes;  // damaged too
  const std::string text = long_one ? "" : read_regular_text(path, max_bytes);
  std::istringstream words(text);
  std::string of, name;
  DataPosition p;
  words >> of >> name >> p.consumed_samples >> name >> p.skipped_steps >> name >> p.skipped_in_a_row;
  if (!words || text != text_of(of, p)) {
    log_warn("{}: is damaged: the data of the steps that were skipped last are met again", path);
    return {};
  }
  if (of != step) return {};
  return p;
}

}  // namespace upcycle
