#include "parallel/checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <list>
#include <map>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hdf5_listing.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/checkpoint/read_lock.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/checkpoint/stored_index.h"
#include "parallel/comm/agree.h"
#include "parallel/model/check_values.h"
#include "parallel/model/rectangles.h"

namespace upcycle {
namespace {

constexpr std::size_t max_open_files = 256;
constexpr std::size_t bounce_bytes = std::size_t{1} << 20;

// Keeps the most recently read files open.
class OpenFiles {
 public:
  const FileDescriptor& get(int file, const std::string& path) {
    const auto found = std::find_if(open_.begin(), open_.end(), [&](const Entry& e) { return e.file == file; });
    if (found != open_.end()) {
      open_.splice(open_.begin(), open_, found);
    } else {
      if (open_.size() >= max_open_files) open_.pop_back();
      open_.push_front({file, open_regular_file(path)});
    }
    return open_.front().opened;
  }

 private:
  struct Entry {
    int file;
    FileDescriptor opened;
  };
  std::list<Entry> open_;
};

void to_floats(DType type, const char* from, std::int64_t n, float* to) {
  if (type == DType::F32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const auto* const values = reinterpret_cast<const bf16*>(from);
  std::transform(values, values + n, to, [](bf16 x) { return to_float(x); });
}

// Reads `common`, a part of both, from the file that holds `stored` into `out`, which holds `wanted`.
void copy_common(const FileDescriptor& file, const StoredRectangle& stored, const Rectangle& wanted,
                 const Rectangle& common, float* out) {
  float* const to = out + (common.row - wanted.row) * wanted.columns + (common.column - wanted.column);
  const std::size_t element = size_of(stored.type), row_bytes = static_cast<std::size_t>(stored.part.columns) * element;
  const std::size_t width = static_cast<std::size_t>(common.columns) * element;
  const std::size_t skipped = static_cast<std::size_t>(common.column - stored.part.column) * element;
  const std::uint64_t begin = stored.offset + static_cast<std::uint64_t>(common.row - stored.part.row) * row_bytes;
  const bool whole_rows = width == row_bytes || common.rows == 1;
  if (stored.type == DType::F32 && whole_rows) {
    file.read_rows_at(begin + skipped, reinterpret_cast<char*>(to), static_cast<std::size_t>(common.rows), width,
                      static_cast<std::size_t>(wanted.columns) * sizeof(float));
    return;
  }
  // Whole stored rows if most of each is wanted or they are short, else each row's part by itself.
  const bool as_they_lie = row_bytes <= 4096 || row_bytes <= 4 * width;
  const std::size_t pitch = as_they_lie ? row_bytes : width;
  const std::int64_t step = std::clamp<std::int64_t>(static_cast<std::int64_t>(bounce_bytes / pitch), 1, common.rows);
  std::vector<char> block(static_cast<std::size_t>(step) * pitch);
  for (std::int64_t r = 0; r < common.rows; r += step) {
    const std::int64_t n = std::min(step, common.rows - r);
    const std::uint64_t at = begin + static_cast<std::uint64_t>(r) * row_bytes;
    if (as_they_lie) {  // the last row's end may be the file's
      file.read_at(at + skipped, block.data(), static_cast<std::size_t>(n - 1) * row_bytes + width);
    } else {
      for (std::int64_t i = 0; i < n; ++i)
        file.read_at(at + static_cast<std::uint64_t>(i) * row_bytes + skipped,
                     block.data() + i * static_cast<std::int64_t>(width), width);
    }
    for (std::int64_t i = 0; i < n; ++i)
      to_floats(stored.type, block.data() + static_cast<std::size_t>(i) * pitch, common.columns,
                to + (r + i) * wanted.columns);
  }
}

class StoredCheckpoint : public Checkpoint {
 public:
  StoredCheckpoint(std::string folder, ReadLock lock, Manifest manifest, StoredIndex index)
      : folder_(std::move(folder)),
        lock_(std::move(lock)),
        manifest_(std::move(manifest)),
        index_(std::move(index)),
        moments_(index_.moments()) {
    for (std::size_t i = 0; i < manifest_.tensors.size(); ++i) tensor_of_[manifest_.tensors[i].name] = i;
  }

  const std::string& name() const override { return folder_; }
  const std::string& directory() const override { return folder_; }
  const ModelConfig& model() const override { return manifest_.info.model; }
  const CheckpointInfo& info() const override { return manifest_.info; }
  int moments() const override { return moments_; }
  const std::vector<TensorShape>& tensors() const override { return manifest_.tensors; }
  const std::vector<FileEntry>& files() const override { return manifest_.files; }
  bool has(const std::string& tensor) const override { return tensor_of_.count(tensor) != 0; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    read_state(StateKind::Master, tensor, part, out);
  }

  void read_state(StateKind kind, const std::string& tensor, const Rectangle& part, float* out) override {
    const auto found = tensor_of_.find(tensor);
    if (found == tensor_of_.end())
      input_error("{}/{}: tensors: found no {}, expected it; the checkpoint is of another model", folder_,
                  manifest_name, quote_text(tensor));
    if (static_cast<int>(kind) > moments_)
      input_error("{}: {}: found {} moments in the optimizer files, expected {}; its run had another optimizer",
                  folder_, tensor, moments_, static_cast<int>(kind));
    const TensorShape& t = manifest_.tensors[found->second];
    UPCYCLE_CHECK(part.row >= 0 && part.rows >= 0 && part.rows <= t.rows && part.row <= t.rows - part.rows &&
                      part.column >= 0 && part.columns >= 0 && part.columns <= t.columns &&
                      part.column <= t.columns - part.columns,
                  "{}: {}: rows {} + {}, columns {} + {} of {} x {}", folder_, tensor, part.row, part.rows, part.column,
                  part.columns, t.rows, t.columns);
    if (part.size() == 0) return;
    const std::string stored_name = stored_tensor_name(kind, tensor);
    for (const StoredRectangle& r : index_.of(kind, found->second)) {
      const Rectangle common = intersection(r.part, part);
      if (common.size() == 0) continue;
      const std::string& file = manifest_.files[static_cast<std::size_t>(r.file)].name;
      copy_common(open_.get(r.file, folder_ + "/" + file), r, part, common, out);
    }
    check_values(stored_name, t.is_vector, part, out, [&](std::int64_t row, std::int64_t column) {
      for (const StoredRectangle& r : index_.of(kind, found->second))
        if (intersection(r.part, {row, column, 1, 1}).size() > 0)
          return folder_ + "/" + manifest_.files[static_cast<std::size_t>(r.file)].name;
      return folder_;
    });
  }

 private:
  std::string folder_;
  ReadLock lock_;
  Manifest manifest_;
  StoredIndex index_;
  int moments_;
  std::map<std::string, std::size_t> tensor_of_;
  OpenFiles open_;
};

}  // namespace

bool is_checkpoint(const std::string& dir) {
  namespace fs = std::filesystem;
  return fs::exists(dir + "/" + latest_name) || fs::exists(dir + "/" + manifest_name);
}

bool holds_run(const std::string& dir) {
  namespace fs = std::filesystem;
  return is_checkpoint(dir) || fs::exists(dir + "/" + publishing_name) ||
         (fs::is_directory(dir) && !published_steps(dir).empty());
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& dir, bool verify, Communicator* world,
                                            bool weights_only) {
  const int rank = world == nullptr ? 0 : world->rank(), size = world == nullptr ? 1 : world->size();
  const auto agreed = [&](const std::function<void()>& check) {
    if (world == nullptr) return check();
    agree_or_throw(*world, check);
  };
  // One rank looks up the latest step: all must read the same.
  std::string folder;
  agreed([&] {
    if (rank == 0) folder = find_step_folder(dir);
  });
  if (world != nullptr) folder = world->broadcast_text(folder, 0);
  Manifest manifest;
  std::optional<ReadLock> lock;
  agreed([&] {
    lock.emplace(folder);
    manifest = read_manifest(folder);
  });

  // Before any rank opens a file: on a damaged one the HDF5 library may do anything.
  const int files = static_cast<int>(manifest.files.size());
  const auto wanted = [&](int i) {
    return !weights_only || rank_of_optimizer_file(manifest.files[static_cast<std::size_t>(i)].name) < 0;
  };
  agreed([&] {
    for (int i = 0; i < files; ++i)
      if (rank_that_hashes(manifest, i, size) == rank)
        check_file(folder, manifest, manifest.files[static_cast<std::size_t>(i)], verify && wanted(i));
  });
  StoredIndex index(manifest);
  agreed([&] {
    hdf5_thread().run([&] {
      for (int i = rank; i < files; i += size) {
        const std::string& name = manifest.files[static_cast<std::size_t>(i)].name;
        if (!wanted(i) || (rank_of_model_file(name) < 0 && rank_of_optimizer_file(name) < 0)) continue;
        index.add_file(manifest, i, list_hdf5(folder + "/" + name));
      }
    });
  });
  if (size > 1) index.replace_with(world->gather_text(index.text()));
  agreed([&] { index.check_tiling(manifest, folder, weights_only); });
  return std::make_unique<StoredCheckpoint>(folder, std::move(*lock), std::move(manifest), std::move(index));
}

}  // namespace upcycle
