#include "parallel/checkpoint/import.h"

#include <algorithm>
#include <filesystem>

#include "core/log.h"
#include "data/files.h"
#include "data/hdf5.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/huggingface.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::int64_t buffer_elements = std::int64_t{8} << 20;  // 32 MiB
constexpr int max_shards = 99999;

// Part i of n of the matrix's rows; a vector is whole in file 0.
Rectangle shard_of(const ParamRow& row, int i, int n) {
  const std::int64_t begin = row.rows * i / n, end = row.rows * (i + 1) / n;
  if (row.rows == 1) return {0, 0, i == 0 ? 1 : 0, row.columns};
  return {begin, 0, end - begin, row.columns};
}

Checkpoint::FileEntry write_shard(const ParamTable& table, TensorSource& source, const std::string& folder, int shard,
                                  int shards) {
  IoThread& io = hdf5_thread();
  const std::string name = model_file_name(shard);
  std::unique_ptr<Hdf5File> file;
  std::vector<float> buffer;
  Checkpoint::FileEntry entry;
  try {
    io.run([&] {
      file = std::make_unique<Hdf5File>(Hdf5File::create(folder + "/" + name));
      file->write_attributes(file_attributes(0, shard));
    });
    for (const ParamRow& row : table.rows) {
      const Rectangle all = shard_of(row, shard, shards);
      if (all.size() == 0) continue;
      const std::string dataset = rectangle_name(row.name, 0);
      io.run([&] {
        file->declare(dataset, DType::F32, all.rows, all.columns,
                      rectangle_attributes(row.rows, row.columns, row.is_vector, all));
      });
      const std::int64_t block = std::clamp<std::int64_t>(buffer_elements / all.columns, 1, all.rows);
      buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(block * all.columns)));
      for (std::int64_t r = 0; r < all.rows; r += block) {
        const std::int64_t n = std::min(block, all.rows - r);
        source.read(row.name, {all.row + r, 0, n, all.columns}, buffer.data());
        io.run([&] { file->write_rows(dataset, n, buffer.data()); });
      }
    }
    io.run([&] {
      file->close();
      entry = file_entry(folder, name);
    });
  } catch (...) {
    io.run([&] { file.reset(); });  // its own thread closes it
    throw;
  }
  io.run([&] { file.reset(); });
  return entry;
}

void require_free(const std::string& out) {
  if (!fs::exists(out)) return;
  if (!fs::is_directory(out)) input_error("{}: found a file, expected a folder to be made; choose another name", out);
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    if (name == ".lock" || name == step_folder_name(0) + ".tmp") continue;  // of an import that was killed
    input_error("{}: found {} in it, expected an empty folder or none; choose another name", out, name);
  }
}

}  // namespace

std::string choose_tokenizer(const std::string& folder) {
  std::string found;
  for (const std::string& path : travelling_files(folder)) {
    const std::string name = fs::path(path).filename().string();
    if (name == "tokenizer.model") return name;
    if (name.ends_with(".model") && !found.ends_with(".model")) found = name;
    if (name == "tokenizer.json" && found.empty()) found = name;
  }
  return found;
}

void import_model(const std::string& source_dir, const std::string& out, int shards) {
  if (shards < 1 || shards > max_shards) input_error("import: shards: found {}, expected 1 to {}", shards, max_shards);
  if (!fs::is_directory(source_dir))
    input_error("{}: found no such folder, expected a Hugging Face model; give its path", source_dir);
  if (!is_huggingface(source_dir))
    input_error("{}: found no config.json, expected a Hugging Face model (config.json and safetensors); give its path",
                source_dir);
  const std::unique_ptr<TensorSource> source = open_huggingface(source_dir);
  require_free(out);
  const bool made = !fs::exists(out);
  make_folder(out);
  const FolderLock lock(out);
  clean_run_folder(out);
  const std::string aside = out + "/" + step_folder_name(0) + ".tmp";
  try {
    make_folder(aside);
    const ParamTable table = make_global_table(source->model());
    Manifest m;
    m.info.model = source->model();
    m.info.init = "import " + source_dir;
    m.info.tokenizer = choose_tokenizer(source_dir);
    for (const ParamRow& row : table.rows) m.tensors.push_back({row.name, row.rows, row.columns, row.is_vector});
    for (int i = 0; i < shards; ++i) m.files.push_back(write_shard(table, *source, aside, i, shards));
    for (auto& entry : copy_travelling(aside, travelling_files(source_dir))) m.files.push_back(std::move(entry));
    publish_step(out, m);
  } catch (...) {
    try {
      remove_tree(made ? out : aside);
    } catch (const std::exception& e) {
      log_warn("{}", e.what());
    }
    throw;
  }
}

}  // namespace upcycle
