#include "parallel/checkpoint/rank_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "core/check.h"
#include "core/error.h"
#include "data/files.h"
#include "data/hash.h"
#include "data/hdf5.h"
#include "data/links.h"
#include "data/tokenizer.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/models/original_config.h"

namespace upcycle {
namespace fs = std::filesystem;

std::string stored_tensor_name(StateKind kind, const std::string& tensor) {
  switch (kind) {
    case StateKind::Moment1:
      return "exp_avg/" + tensor;
    case StateKind::Moment2:
      return "exp_avg_sq/" + tensor;
    default:
      return tensor;
  }
}

Hdf5Attributes rectangle_attributes(std::int64_t global_rows, std::int64_t global_columns, bool is_vector,
                                    const Rectangle& part) {
  Hdf5Attributes a;
  a.numbers["global_shape"] =
      is_vector ? std::vector<std::int64_t>{global_columns} : std::vector<std::int64_t>{global_rows, global_columns};
  a.numbers["offset"] = {part.row, part.column};
  return a;
}

Hdf5Attributes file_attributes(std::int64_t step, int rank) {
  Hdf5Attributes a;
  a.numbers["format_version"] = {rank_file_version};
  a.numbers["step"] = {step};
  a.numbers["rank"] = {rank};
  return a;
}

Checkpoint::FileEntry file_entry(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  const auto bytes = static_cast<std::int64_t>(open_regular_file(path).size());
  return {name, hash_file(path), bytes};
}

namespace {

constexpr const char *config_name = "config.json", *generation_name = "generation_config.json";

constexpr std::int64_t buffer_elements = std::int64_t{8} << 20;  // 32 MiB
constexpr std::int64_t block_elements = std::int64_t{1} << 20;   // 4 MiB: of a snapshot that is not fp32

// Calls use(row, rows) for blocks of about `elements`.
template <class Use>
void in_blocks(const Rectangle& part, std::int64_t elements, const Use& use) {
  const std::int64_t block = std::clamp<std::int64_t>(elements / part.columns, 1, part.rows);
  for (std::int64_t r = 0; r < part.rows; r += block) use(r, std::min(block, part.rows - r));
}

bool is_moment(const SavedPiece& p) { return p.kind != StateKind::Master; }

// One of a rank's two files, its pieces one after the other. Belongs to the HDF5 thread.
class RankFile {
 public:
  RankFile(const std::string& folder, std::int64_t step, int rank, bool optimizer)
      : folder_(folder),
        name_(optimizer ? optimizer_file_name(rank) : model_file_name(rank)),
        file_(Hdf5File::create(folder + "/" + name_)) {
    file_.write_attributes(file_attributes(step, rank));
  }
  void begin(const SavedPiece& p) {
    const std::string tensor = stored_tensor_name(p.kind, p.tensor);
    dataset_ = rectangle_name(tensor, count_[tensor]++);
    file_.declare(dataset_, p.type, p.part.rows, p.part.columns,
                  rectangle_attributes(p.global_rows, p.global_columns, p.is_vector, p.part));
  }
  void write(std::int64_t rows, const float* values) { file_.write_rows(dataset_, rows, values); }
  Checkpoint::FileEntry finish() {
    file_.close();
    return file_entry(folder_, name_);
  }

 private:
  std::string folder_, name_, dataset_;
  Hdf5File file_;
  std::map<std::string, int> count_;
};

// The files to write: false the model's, true the optimizer's.
std::vector<bool> files_of(const std::vector<SavedPiece>& pieces) {
  if (std::any_of(pieces.begin(), pieces.end(), is_moment)) return {false, true};
  return {false};
}

}  // namespace

std::vector<Checkpoint::FileEntry> write_rank_files(const std::string& folder, std::int64_t step, int rank,
                                                    const std::vector<SavedPiece>& pieces) {
  make_folder(folder);
  std::vector<Checkpoint::FileEntry> entries;
  std::vector<float> buffer;
  for (const bool optimizer : files_of(pieces)) {
    RankFile file(folder, step, rank, optimizer);
    for (const SavedPiece& p : pieces) {
      if (is_moment(p) != optimizer) continue;
      file.begin(p);
      if (p.values != nullptr)
        file.write(p.part.rows, p.values);
      else
        in_blocks(p.part, block_elements, [&](std::int64_t row, std::int64_t rows) {
          buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(rows * p.part.columns)));
          p.read(row, rows, buffer.data());
          file.write(rows, buffer.data());
        });
    }
    entries.push_back(file.finish());
  }
  return entries;
}

FinishFiles stream_values(const std::string& folder, std::int64_t step, int rank, const std::vector<SavedPiece>& pieces,
                          const PieceReader& read, const std::vector<std::span<float>>& buffers) {
  IoThread& io = hdf5_thread();
  make_folder(folder);
  // Files are made, written and destroyed on the HDF5 thread; where this ends early, after the writes under way.
  using Files = std::vector<std::unique_ptr<RankFile>>;
  const std::shared_ptr<Files> files(new Files, [](Files* f) {
    if (!f->empty()) hdf5_thread().run([f] { f->clear(); });
    delete f;
  });
  std::vector<std::future<void>> writes(buffers.size());
  std::size_t next = 0;
  for (const bool optimizer : files_of(pieces)) {
    io.run([&] { files->push_back(std::make_unique<RankFile>(folder, step, rank, optimizer)); });
    RankFile& file = *files->back();
    for (const SavedPiece& p : pieces) {
      if (is_moment(p) != optimizer) continue;
      const auto room = static_cast<std::int64_t>(buffers[0].size()) / p.part.columns;
      UPCYCLE_CHECK(room > 0, "{}: a row of {} for a buffer of {}", p.tensor, p.part.columns, buffers[0].size());
      for (std::int64_t r = 0; r < p.part.rows; r += room) {
        const std::int64_t n = std::min(room, p.part.rows - r);
        float* const values = buffers[next].data();
        std::future<void>& write = writes[next];
        if (write.valid()) wait_for_job(write);
        read(p, r, n, values);
        write = io.submit([&file, &p, r, n, values] {
          if (r == 0) file.begin(p);
          file.write(n, values);
        });
        next = (next + 1) % buffers.size();
      }
    }
  }
  for (std::future<void>& write : writes)
    if (write.valid()) wait_for_job(write);
  return [files] {
    struct Close {
      Files& files;
      ~Close() { files.clear(); }
    } close{*files};
    std::vector<Checkpoint::FileEntry> entries;
    for (const auto& file : *files) entries.push_back(file->finish());
    return entries;
  };
}

std::vector<Checkpoint::FileEntry> stream_rank_files(const std::string& folder, std::int64_t step, int rank,
                                                     const std::vector<SavedPiece>& pieces, const PieceReader& read) {
  std::int64_t most = 0;
  for (const SavedPiece& p : pieces) most = std::max({most, p.part.columns, std::min(p.part.size(), buffer_elements)});
  std::vector<float> buffer(static_cast<std::size_t>(most));
  const FinishFiles finish = stream_values(folder, step, rank, pieces, read, {buffer});
  std::vector<Checkpoint::FileEntry> entries;
  hdf5_thread().run([&] { entries = finish(); });
  return entries;
}

std::string travelling_name(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  return name == config_name ? imported_config_name : name;
}

std::vector<std::string> with_tokenizer(const std::vector<std::string>& travel, const std::string& tokenizer) {
  const auto is_of_model = [](const std::string& path) {
    const std::string name = travelling_name(path);
    return name == imported_config_name || name == generation_name;
  };
  std::vector<std::string> files;
  for (const std::string& path : travel)
    if (is_of_model(path)) files.push_back(path);
  const fs::path own(tokenizer);
  const std::string folder = own.has_parent_path() ? own.parent_path().string() : ".";
  for (const std::string& path : travelling_files(folder))
    if (!is_of_model(path) && fs::path(path).extension() != ".model" && fs::path(path).filename() != own.filename())
      files.push_back(path);
  files.push_back(tokenizer);
  return files;
}

std::vector<TravellingFile> read_travelling(const std::vector<std::string>& paths, bool with_bytes) {
  std::vector<TravellingFile> files;
  std::set<std::string> seen;
  for (const std::string& path : paths) {
    const std::string name = travelling_name(path);
    if (!seen.insert(name).second) input_error("{}: two files named {} can not travel into one folder", path, name);
    const FileDescriptor file = open_regular_file(path);
    if (file.size() > tokenizer_bytes_max)  // it is held in memory
      input_error("{}: found {} bytes, expected at most {} of a file that goes with a model; remove it, or shorten it",
                  path, file.size(), tokenizer_bytes_max);
    std::string bytes(with_bytes ? file.size() : 0, '\0');
    file.read_at(0, bytes.data(), bytes.size());
    files.push_back({name, std::move(bytes)});
  }
  return files;
}

std::vector<Checkpoint::FileEntry> write_travelling(const std::string& folder,
                                                    const std::vector<TravellingFile>& files) {
  make_folder(folder);
  std::vector<Checkpoint::FileEntry> entries;
  for (const TravellingFile& file : files) {
    write_text_atomic(folder + "/" + file.name, file.bytes);
    entries.push_back(file_entry(folder, file.name));
  }
  return entries;
}

std::vector<std::string> travelling_files(const std::string& folder) {
  static constexpr std::array<const char*, 9> names = {
      "added_tokens.json", "chat_template.jinja",   generation_name, "merges.txt", "special_tokens_map.json",
      "tokenizer.json",    "tokenizer_config.json", "vocab.json",    "vocab.txt"};
  std::set<std::string> listed;
  const bool ours = fs::exists(folder + "/" + manifest_name);
  if (ours)
    for (const Checkpoint::FileEntry& f : read_manifest(folder).files) listed.insert(f.name);
  std::vector<std::string> found;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const bool known = std::find(names.begin(), names.end(), name) != names.end() ||
                       entry.path().extension() == ".model" || name == (ours ? imported_config_name : config_name);
    if (!known || !entry.is_regular_file() || (ours && listed.count(name) == 0)) continue;
    // What a checkpoint lists has a checksum, and config.json is read before it is copied.
    if (!ours && name != config_name) refuse_link_outside(folder, name);
    found.push_back(entry.path().string());
  }
  if (code) input_error("{}: cannot list the folder: {}", folder, code.message());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace upcycle
