#include "parallel/checkpoint/reshard.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/new_run.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

// In the order in which a rank's snapshot lists them (train/state): it decides where values lie in the files.
std::vector<SavedPiece> pieces_of(const ParamTable& table, const Coordinates& at, int moments,
                                  std::optional<DType> weights_alone) {
  std::vector<SavedPiece> pieces;
  for (const OwnedPiece& p : owned_pieces(table, at, false))
    for (const StateKind kind : {StateKind::Master, StateKind::Moment1, StateKind::Moment2})
      if (static_cast<int>(kind) <= moments)
        pieces.push_back({kind, p.row->name, p.row->rows, p.row->columns, p.row->is_vector, p.part, nullptr,
                          type_in_files(*p.row, weights_alone)});
  return pieces;
}

std::vector<std::string> travelling_paths(const Checkpoint& source) {
  std::vector<std::string> paths;
  for (const Checkpoint::FileEntry& f : source.files())
    if (rank_of_model_file(f.name) < 0 && rank_of_optimizer_file(f.name) < 0)
      paths.push_back(source.directory() + "/" + f.name);
  return paths;
}

bool lies_in(const std::string& path, const std::string& folder) {
  const fs::path inner = fs::weakly_canonical(path), outer = fs::weakly_canonical(folder);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace

void check_reshard(const std::string& source_folder, const ModelConfig& model, const std::string& out,
                   const Layout& layout) {
  (void)make_param_table(model, layout, coordinates_of(layout, 0));  // refuses sizes that do not divide
  if (lies_in(out, source_folder))
    input_error("{}: found a folder inside {}, expected one outside: a published step is never changed", out,
                source_folder);
  require_free(out);
}

void reshard(Checkpoint& source, const std::string& out, const Layout& layout) {
  const ModelConfig& model = source.model();
  check_reshard(source.directory(), model, out, layout);
  const PieceReader read = [&](const SavedPiece& p, std::int64_t row, std::int64_t rows, float* to) {
    source.read_state(p.kind, p.tensor, {p.part.row + row, p.part.column, rows, p.part.columns}, to);
  };
  const std::int64_t step = source.info().step;
  make_run(out, step, [&](const std::string& folder) {
    Manifest m{source.info(), {}, source.tensors()};
    m.info.layout = layout;
    const auto list = [&](std::vector<Checkpoint::FileEntry> entries) {
      m.files.insert(m.files.end(), entries.begin(), entries.end());
    };
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      list(stream_rank_files(folder, step, rank, pieces_of(table, at, source.moments(), source.info().weights_alone),
                             read));
      if (rank == 0) list(write_travelling(folder, read_travelling(travelling_paths(source))));
    }
    return m;
  });
}

}  // namespace upcycle
