#include "parallel/checkpoint/import.h"

#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/new_run.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/models/huggingface.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr int max_shards = 99999;

// Part i of n of the matrix's rows; file 0 has all of a vector.
Rectangle shard_of(const ParamRow& row, int i, int n) {
  const std::int64_t begin = row.rows * i / n, end = row.rows * (i + 1) / n;
  if (row.rows == 1) return {0, 0, i == 0 ? 1 : 0, row.columns};
  return {begin, 0, end - begin, row.columns};
}

std::vector<SavedPiece> shard_pieces(const ParamTable& table, int shard, int shards) {
  std::vector<SavedPiece> pieces;
  for (const ParamRow& row : table.rows)
    if (const Rectangle part = shard_of(row, shard, shards); part.size() > 0)
      pieces.push_back({StateKind::Master, row.name, row.rows, row.columns, row.is_vector, part});
  return pieces;
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
  const auto write = [&](const std::string& folder) {
    const ParamTable table = make_global_table(source->model());
    Manifest m;
    m.info.model = source->model();
    m.info.init = "import " + source_dir;
    m.info.tokenizer = choose_tokenizer(source_dir);
    for (const ParamRow& row : table.rows) m.tensors.push_back({row.name, row.rows, row.columns, row.is_vector});
    const PieceReader read = [&](const SavedPiece& p, std::int64_t row, std::int64_t rows, float* out) {
      source->read(p.tensor, {p.part.row + row, p.part.column, rows, p.part.columns}, out);
    };
    for (int i = 0; i < shards; ++i)
      for (auto& entry : stream_rank_files(folder, 0, i, shard_pieces(table, i, shards), read))
        m.files.push_back(std::move(entry));
    for (auto& entry : write_travelling(folder, read_travelling(travelling_files(source_dir))))
      m.files.push_back(std::move(entry));
    return m;
  };
  make_run(out, 0, write);
}

}  // namespace upcycle
