#include "kernels/cpu/gemm_tiles.h"

#include <array>
#include <limits>

namespace upcycle {
namespace {

constexpr std::array<std::int64_t, 8> kRows = {16, 32, 64, 96, 128, 160, 192, 256};
constexpr std::array<std::int64_t, 7> kColumns = {32, 64, 128, 192, 256, 384, 512};

// Costs in multiply-adds. Packing an element costs about 24; calling oneDNN for a tile about a microsecond.
double tile_cost(std::int64_t rows, std::int64_t columns, std::int64_t k) {
  return static_cast<double>(k * (rows * columns + 24 * (rows + columns))) + 1e5;
}

}  // namespace

GemmTiles choose_tiles(std::int64_t m, std::int64_t n, std::int64_t k, int threads, std::int64_t most_rows) {
  GemmTiles best;
  double lowest = std::numeric_limits<double>::infinity();
  for (const std::int64_t rows : kRows) {
    const std::int64_t r = std::min(rows, most_rows);
    for (const std::int64_t c : kColumns) {
      const GemmTiles tiles{m, n, even_part(m, r), even_part(n, c)};
      const std::int64_t rounds = (tiles.count() + threads - 1) / threads;
      const double cost = static_cast<double>(rounds + 1) * tile_cost(tiles.rows, tiles.columns, k);
      if (cost >= lowest) continue;
      lowest = cost;
      best = tiles;
    }
  }
  // Work that one thread does in the time that it takes to start a team is not worth starting one.
  constexpr double kAlone = 2e5;
  if (static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) < kAlone)
    best = {m, n, std::min(m, most_rows), std::min(n, kColumns.back())};
  return best;
}

GemmTiles halve_tiles(GemmTiles tiles) {
  std::int64_t& side = tiles.rows >= tiles.columns ? tiles.rows : tiles.columns;
  side = side > 16 ? even_part(side, (side + 1) / 2) : (side + 1) / 2;
  return tiles;
}

}  // namespace upcycle
