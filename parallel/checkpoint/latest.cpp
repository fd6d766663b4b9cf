#include "parallel/checkpoint/latest.h"

#include <filesystem>

#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hash.h"
#include "parallel/checkpoint/manifest.h"

namespace upcycle {
namespace {
constexpr std::size_t max_bytes = 4096;
}

std::string named_step_text(const std::string& step) {
  return fmt::format("{}\n{} is the hash of the line above; without this line another name may be written by hand\n",
                     step, hash_bytes(step.data(), step.size()));
}

Latest look_at_named_step(const std::string& path) {
  if (!std::filesystem::exists(path)) return {};
  if (const std::uint64_t bytes = open_regular_file(path).size(); bytes > max_bytes)
    return {"", false,
            fmt::format("{}: found {} bytes, expected the name of a step folder; write the newest one's name there, as "
                        "in {}",
                        path, bytes, step_folder_name(100))};
  return parse_named_step(read_regular_text(path, max_bytes), path);
}

Latest parse_named_step(const std::string& text, const std::string& path) {
  const std::string first = text.substr(0, text.find('\n'));
  Latest latest;
  if (!is_step_folder_name(first))
    latest.damage =
        fmt::format("{}: found {}, expected the name of a step folder; write the newest one's name there, as in {}",
                    path, quote_text(first), step_folder_name(100));
  else if (text != first && text != first + "\n" && text != named_step_text(first))
    latest.damage = fmt::format(
        "{}: found {} and a second line that is not its hash; the file is damaged, or only its first line was changed "
        "by hand: write the name alone",
        path, first);
  else
    latest = {first, text == named_step_text(first), ""};
  return latest;
}

Latest look_at_latest(const std::string& run_dir) { return look_at_named_step(run_dir + "/" + latest_name); }

std::string read_latest(const std::string& run_dir) {
  const Latest latest = look_at_latest(run_dir);
  if (!latest.damage.empty()) throw InputError(latest.damage);
  return latest.step;
}

void write_latest(const std::string& run_dir, const std::string& step) {
  write_text_atomic(run_dir + "/" + latest_name, named_step_text(step));
}

}  // namespace upcycle
