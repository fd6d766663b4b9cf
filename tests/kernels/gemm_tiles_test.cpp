#include "kernels/cpu/gemm_tiles.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace upcycle {
namespace {

void expect_cover(const GemmTiles& tiles) {
  std::vector<int> seen(static_cast<std::size_t>(tiles.m * tiles.n));
  std::set<std::pair<std::int64_t, std::int64_t>> shapes;
  for (std::int64_t t = 0; t < tiles.count(); ++t) {
    ASSERT_GT(tiles.rows_at(t), 0);
    ASSERT_GT(tiles.columns_at(t), 0);
    shapes.emplace(tiles.rows_at(t), tiles.columns_at(t));
    for (std::int64_t i = 0; i < tiles.rows_at(t); ++i)
      for (std::int64_t j = 0; j < tiles.columns_at(t); ++j)
        ++seen[static_cast<std::size_t>((tiles.row(t) + i) * tiles.n + tiles.column(t) + j)];
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), tiles.m * tiles.n);
  EXPECT_LE(shapes.size(), 4u);
}

TEST(GemmTiles, CoverEveryElementOnceInFourShapesAtMost) {
  for (const std::int64_t m : {1, 15, 17, 300, 515})
    for (const std::int64_t n : {1, 33, 513, 1100})
      for (const std::int64_t k : {1, 4000})
        for (const int threads : {1, 2, 3, 16}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", m, n, k, threads));
          GemmTiles tiles = choose_tiles(m, n, k, threads);
          expect_cover(tiles);
          while (tiles.rows > 1 || tiles.columns > 1) {
            const std::int64_t before = tiles.rows * tiles.columns;
            tiles = halve_tiles(tiles);
            ASSERT_LT(tiles.rows * tiles.columns, before);
          }
          expect_cover(tiles);
        }
}

// A thread that has lost its core holds up one tile: the others must have enough other work. On an idle machine all
// must be busy to the end.
TEST(GemmTiles, ThreadsHaveSeveralEach) {
  struct Shape {
    std::int64_t m, n, k;
  };
  for (const Shape s : {Shape{2048, 704, 128}, Shape{704, 128, 2048}, Shape{512, 2816, 512}, Shape{4096, 4096, 4096}})
    for (const int threads : {2, 3, 4}) {
      const GemmTiles tiles = choose_tiles(s.m, s.n, s.k, threads);
      EXPECT_GE(tiles.count(), 3 * threads) << s.m << " " << s.n << " " << s.k;
      std::vector<std::int64_t> work(static_cast<std::size_t>(threads));
      std::int64_t total = 0;
      for (std::int64_t t = 0; t < tiles.count(); ++t) {
        const std::int64_t area = tiles.rows_at(t) * tiles.columns_at(t);
        *std::min_element(work.begin(), work.end()) += area;
        total += area;
      }
      EXPECT_LE(*std::max_element(work.begin(), work.end()) * threads, total * 115 / 100)
          << s.m << " " << s.n << " " << s.k << " on " << threads;
    }
}

}  // namespace
}  // namespace upcycle
