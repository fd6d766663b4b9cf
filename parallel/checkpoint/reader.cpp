#include <algorithm>
#include <filesystem>
#include <list>
#include <map>

#include "core/progress.h"
#include "core/suggest.h"
#include "data/hdf5.h"
#include "parallel/checkpoint/check_values.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/checkpoint/stored_index.h"
#include "parallel/comm/agree.h"
#include "parallel/model/rectangles.h"

namespace upcycle {
namespace {

constexpr std::size_t max_open_files = 16;
constexpr std::int64_t bounce_elements = std::int64_t{1} << 20;  // 4 MiB

// The files that were read last, open. Belongs to the HDF5 thread.
class OpenFiles {
 public:
  const Hdf5File& get(int file, const std::string& path) {
    const auto found = std::find_if(open_.begin(), open_.end(), [&](const Entry& e) { return e.file == file; });
    if (found != open_.end()) {
      open_.splice(open_.begin(), open_, found);
    } else {
      if (open_.size() >= max_open_files) open_.pop_back();
      open_.push_front({file, Hdf5File::open_read(path)});
    }
    return open_.front().opened;
  }

 private:
  struct Entry {
    int file;
    Hdf5File opened;
  };
  std::list<Entry> open_;
};

// `common`, which lies in both, from the dataset that holds `stored` into `out`, which holds `wanted`.
void copy_common(const Hdf5File& file, const std::string& dataset, const Rectangle& stored, const Rectangle& wanted,
                 const Rectangle& common, float* out) {
  float* const to = out + (common.row - wanted.row) * wanted.columns + (common.column - wanted.column);
  const std::int64_t row = common.row - stored.row, column = common.column - stored.column;
  if (common.columns == wanted.columns || common.rows == 1) {
    file.read(dataset, row, common.rows, column, common.columns, to);
    return;
  }
  const std::int64_t block_rows = std::clamp<std::int64_t>(bounce_elements / common.columns, 1, common.rows);
  std::vector<float> block(static_cast<std::size_t>(block_rows * common.columns));
  for (std::int64_t r = 0; r < common.rows; r += block_rows) {
    const std::int64_t n = std::min(block_rows, common.rows - r);
    file.read(dataset, row + r, n, column, common.columns, block.data());
    for (std::int64_t i = 0; i < n; ++i)
      std::copy_n(block.data() + i * common.columns, common.columns, to + (r + i) * wanted.columns);
  }
}

class StoredCheckpoint : public Checkpoint {
 public:
  StoredCheckpoint(std::string folder, Manifest manifest, StoredIndex index, bool weights_only)
      : folder_(std::move(folder)), manifest_(std::move(manifest)), index_(std::move(index)) {
    for (std::size_t i = 0; i < manifest_.tensors.size(); ++i) tensor_of_[manifest_.tensors[i].name] = i;
    for (const FileEntry& f : manifest_.files)
      optimizer_ = optimizer_ || (!weights_only && rank_of_optimizer_file(f.name) >= 0);
  }
  ~StoredCheckpoint() override {
    hdf5_thread().run([this] { open_.reset(); });
  }

  const std::string& name() const override { return folder_; }
  const std::string& directory() const override { return folder_; }
  const ModelConfig& model() const override { return manifest_.info.model; }
  const CheckpointInfo& info() const override { return manifest_.info; }
  bool has_optimizer() const override { return optimizer_; }
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
    if (kind != StateKind::Master && !optimizer_)
      input_error("{}: {}: found no optimizer files, expected its moments; only weights can be read from it", folder_,
                  tensor);
    const TensorShape& t = manifest_.tensors[found->second];
    UPCYCLE_CHECK(part.row >= 0 && part.rows >= 0 && part.rows <= t.rows && part.row <= t.rows - part.rows &&
                      part.column >= 0 && part.columns >= 0 && part.columns <= t.columns &&
                      part.column <= t.columns - part.columns,
                  "{}: {}: rows {} + {}, columns {} + {} of {} x {}", folder_, tensor, part.row, part.rows, part.column,
                  part.columns, t.rows, t.columns);
    if (part.size() == 0) return;
    const std::string stored_name = stored_tensor_name(kind, tensor);
    hdf5_thread().run([&] {
      for (const StoredRectangle& r : index_.of(kind, found->second)) {
        const Rectangle common = intersection(r.part, part);
        if (common.size() == 0) continue;
        const std::string& file = manifest_.files[static_cast<std::size_t>(r.file)].name;
        copy_common(open_->get(r.file, folder_ + "/" + file), rectangle_name(stored_name, r.number), r.part, part,
                    common, out);
        made_progress();
      }
      check_values(stored_name, t.is_vector, part, out, [&](std::int64_t row, std::int64_t column) {
        for (const StoredRectangle& r : index_.of(kind, found->second))
          if (intersection(r.part, {row, column, 1, 1}).size() > 0)
            return folder_ + "/" + manifest_.files[static_cast<std::size_t>(r.file)].name;
        return folder_;
      });
    });
  }

 private:
  std::string folder_;
  Manifest manifest_;
  StoredIndex index_;
  std::map<std::string, std::size_t> tensor_of_;
  bool optimizer_ = false;
  std::unique_ptr<OpenFiles> open_ = std::make_unique<OpenFiles>();
};

}  // namespace

bool is_checkpoint(const std::string& dir) {
  namespace fs = std::filesystem;
  return fs::exists(dir + "/" + latest_name) || fs::exists(dir + "/" + manifest_name);
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& dir, bool verify, Communicator* world,
                                            bool weights_only) {
  const int rank = world == nullptr ? 0 : world->rank(), size = world == nullptr ? 1 : world->size();
  const auto agreed = [&](const std::function<void()>& check) {
    if (world == nullptr) return check();
    agree_or_throw(*world, check);
  };
  // One rank looks what is latest: all must read one step.
  std::string folder;
  agreed([&] {
    if (rank == 0) folder = find_step_folder(dir);
  });
  if (world != nullptr) folder = world->broadcast_text(folder, 0);
  Manifest manifest;
  agreed([&] { manifest = read_manifest(folder); });

  // Before any rank opens a file: an HDF5 library that is given a damaged one may do anything.
  const int files = static_cast<int>(manifest.files.size());
  const auto wanted = [&](int i) {
    return !weights_only || rank_of_optimizer_file(manifest.files[static_cast<std::size_t>(i)].name) < 0;
  };
  agreed([&] {
    for (int i = rank; i < files; i += size)
      check_file(folder, manifest, manifest.files[static_cast<std::size_t>(i)], verify && wanted(i));
  });
  StoredIndex index(manifest);
  agreed([&] {
    hdf5_thread().run([&] {
      for (int i = rank; i < files; i += size) {
        const std::string& name = manifest.files[static_cast<std::size_t>(i)].name;
        if (!wanted(i) || (rank_of_model_file(name) < 0 && rank_of_optimizer_file(name) < 0)) continue;
        index.add_file(manifest, i, Hdf5File::open_read(folder + "/" + name));
      }
    });
  });
  if (size > 1) index.replace_with(world->gather_text(index.text()));
  agreed([&] { index.check_tiling(manifest, folder, weights_only); });
  return std::make_unique<StoredCheckpoint>(folder, std::move(manifest), std::move(index), weights_only);
}

}  // namespace upcycle
