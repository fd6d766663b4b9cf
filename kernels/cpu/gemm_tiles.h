#pragma once
#include <algorithm>
#include <cstdint>

// How a matrix product C (m, n) = A (m, k) B (k, n) is cut into tiles that threads take one after another.
namespace upcycle {

// Nearly equal parts of `total`, each at most `largest`, in units of 16, so that the last is not tiny.
inline std::int64_t even_part(std::int64_t total, std::int64_t largest) {
  const std::int64_t parts = (total + largest - 1) / largest;
  return std::min(total, ((total + parts - 1) / parts + 15) / 16 * 16);
}

// All tiles are rows x columns except the last in each direction, so that a product has at most four tile shapes.
struct GemmTiles {
  std::int64_t m = 0, n = 0;
  std::int64_t rows = 0, columns = 0;

  std::int64_t down() const { return (m + rows - 1) / rows; }
  std::int64_t across() const { return (n + columns - 1) / columns; }
  std::int64_t count() const { return down() * across(); }
  // The tile's position in C, column by column of tiles, since the tiles of a column share B.
  std::int64_t row(std::int64_t tile) const { return tile % down() * rows; }
  std::int64_t column(std::int64_t tile) const { return tile / down() * columns; }
  std::int64_t rows_at(std::int64_t tile) const { return std::min(rows, m - row(tile)); }
  std::int64_t columns_at(std::int64_t tile) const { return std::min(columns, n - column(tile)); }
};

// The tiling that should be fastest on `threads` threads, from sizes and the thread count only. Each tile packs its
// operands, so small tiles are slow; the threads wait for the last tile, so large ones are too, even more if a thread
// has to share its core.
inline constexpr std::int64_t kMostTileRows = 256;
GemmTiles choose_tiles(std::int64_t m, std::int64_t n, std::int64_t k, int threads,
                       std::int64_t most_rows = kMostTileRows);

// With the larger side halved, if a tile's scratch is too large.
GemmTiles halve_tiles(GemmTiles tiles);

}  // namespace upcycle
