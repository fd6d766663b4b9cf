#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "kernels/cpu/gemm_tiles.h"
#include "kernels/gemm_shape.h"

namespace upcycle {

// What oneDNN may use here: the processor's instruction sets, less what ONEDNN_MAX_CPU_ISA forbids. Each has those
// before it.
enum class CpuIsa : std::uint8_t { Avx2, Avx512, Avx512Bf16 };
CpuIsa effective_isa();

// Matrix products, each cut into tiles of C (see gemm_tiles.h) that the threads take one after another; each tile is
// computed by one thread with a oneDNN primitive. The bits depend only on the sizes and the thread count, not on which
// thread takes which tile. Primitives are created on a shape's first use, then kept. One caller at a time, outside
// parallel regions.
//
// Without AVX512_BF16 (below AVX-512 oneDNN has no bf16 products; above, it emulates them at a third of fp32's speed),
// a thread widens its tile's operands to fp32, a block of k at a time, in its part of the workspace, and uses the fp32
// product. Products of two bf16 numbers are exact in fp32, and sums are fp32, rounded to bf16 once, at the end: the
// only differences from bf16 instructions are the order of the sums, and that those flush numbers below 2^-126 to zero.
class GemmCache {
 public:
  // Tiles that need more scratch than `thread_bytes`, a multiple of 64, are made smaller.
  explicit GemmCache(std::size_t thread_bytes = kThreadBytes);
  ~GemmCache();
  GemmCache(const GemmCache&) = delete;
  GemmCache& operator=(const GemmCache&) = delete;

  void prepare(const GemmShape& shape);
  // Sizes may be zero. Throws Error when oneDNN has no such product or `workspace` is too small.
  void run(Workspace workspace, const GemmShape& shape, void* c, const void* a, const void* b);

  static std::size_t workspace_bytes();               // what run needs, for any shape under the default limit
  std::size_t size() const { return plans_.size(); }  // shapes so far
  std::int64_t tiles(const GemmShape& shape);         // into which this shape is cut
  bool widens_bf16() const { return widens_bf16_; }   // see above

  static constexpr std::size_t kThreadBytes = std::size_t{3} << 19;

 private:
  struct Engine;
  struct Piece;
  struct Plan;
  struct Key {
    GemmShape shape;
    int threads;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  Plan& plan(const GemmShape& shape);
  Piece& piece(const GemmShape& shape, int threads);
  bool make_pieces(Plan& plan, const GemmShape& shape, int threads);

  std::size_t thread_bytes_;
  std::unique_ptr<Engine> engine_;
  bool widens_bf16_;
  // oneDNN's AVX2 product is a tenth slower on tiles of large operands than on copies in cache; it adds to C about
  // every 96 terms, each time with C's rounding; and a row's sums depend on the number of rows. So operands are copied,
  // sums are kept in scratch, and rows are padded.
  bool before_avx512_;
  std::unordered_map<Key, std::unique_ptr<Piece>, Hash> pieces_;  // by the shape of one tile
  std::unordered_map<Key, std::unique_ptr<Plan>, Hash> plans_;    // by the shape of the product
};

}  // namespace upcycle
