#include "kernels/cpu/gemm_cache.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "core/check.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kCopiedDepth = 384;  // of k at a time, so that a tile's fp32 operands stay in L2 cache

std::string describe(const GemmShape& s) {
  static constexpr std::array kinds = {"NT", "NN", "TN"};
  return fmt::format("{} product ({}, {}, {}) of {} into {}", kinds[static_cast<std::size_t>(s.kind)], s.m, s.n, s.k,
                     name_of(s.ab), name_of(s.c));
}

dnnl::memory::data_type dnnl_type(DType t) {
  UPCYCLE_CHECK(t == DType::F32 || t == DType::BF16, "a matrix product of {}", name_of(t));
  return t == DType::F32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// A transposed operand is the same memory with its strides swapped.
dnnl::memory::desc layout(std::int64_t rows, std::int64_t columns, DType type, std::int64_t row_stride,
                          bool transposed) {
  return {{rows, columns},
          dnnl_type(type),
          transposed ? dnnl::memory::dims{1, row_stride} : dnnl::memory::dims{row_stride, 1}};
}

// oneDNN takes the thread count from OpenMP when it creates a primitive and, for some primitives, when it runs.
struct OneThread {
  int before = omp_get_max_threads();
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before); }
};

// Part of an operand, in its storage layout.
struct Block {
  std::int64_t row, column, rows, columns;
};

const void* address(const void* data, DType type, std::int64_t stride, std::int64_t row, std::int64_t column) {
  return static_cast<const char*>(data) + (row * stride + column) * static_cast<std::int64_t>(size_of(type));
}

// to (rows, columns), with row stride `to_stride`
template <class T>
void copy_block(float* to, std::int64_t to_stride, const void* data, std::int64_t stride, const Block& block) {
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const T* const from = static_cast<const T*>(data) + (block.row + i) * stride + block.column;
    float* const row = to + i * to_stride;
#pragma omp simd
    for (std::int64_t j = 0; j < block.columns; ++j) row[j] = load(from + j);
  }
}
void copy_floats(float* to, std::int64_t to_stride, const void* data, DType type, std::int64_t stride,
                 const Block& block) {
  if (type == DType::BF16)
    copy_block<bf16>(to, to_stride, data, stride, block);
  else
    copy_block<float>(to, to_stride, data, stride, block);
}

// Adds a tile's result, which was summed in scratch, to C.
void add(void* data, std::int64_t stride, const Block& block, const float* from) {
  for (std::int64_t i = 0; i < block.rows; ++i) {
    float* const to = static_cast<float*>(data) + (block.row + i) * stride + block.column;
    const float* const row = from + i * block.columns;
#pragma omp simd
    for (std::int64_t j = 0; j < block.columns; ++j) to[j] += row[j];
  }
}

template <class T>
void put(void* data, std::int64_t stride, const Block& block, const float* from) {
  for (std::int64_t i = 0; i < block.rows; ++i) {
    T* const to = static_cast<T*>(data) + (block.row + i) * stride + block.column;
    const float* const row = from + i * block.columns;
#pragma omp simd
    for (std::int64_t j = 0; j < block.columns; ++j) store(to + j, row[j]);
  }
}

// Each level adds a bit.
bool has(dnnl_cpu_isa_t isa) { return (dnnl_get_effective_cpu_isa() & isa) == isa; }

// The number of rows to compute when `rows` are needed. oneDNN's AVX2 product handles six rows at a time, and sums the
// last one to three of a product in another order: a row's bits would depend on how many rows its expert has, and
// copies of an expert would diverge. Unused rows fill those places. (Observed with oneDNN 2.6.3, up to
// kMostPaddedRows.)
constexpr std::int64_t kMostPaddedRows = 144;
std::int64_t padded_rows(std::int64_t rows) {
  constexpr std::array<std::int64_t, 6> kMore = {0, 3, 2, 1, 0, 1};
  return rows + kMore[static_cast<std::size_t>(rows % 6)];
}

// Rounds up, so that each part of a thread's scratch begins at a whole cache line.
std::int64_t in_lines(std::int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

CpuIsa effective_isa() {
  if (has(dnnl_cpu_isa_avx512_core_bf16)) return CpuIsa::Avx512Bf16;
  return has(dnnl_cpu_isa_avx512_core) ? CpuIsa::Avx512 : CpuIsa::Avx2;
}

struct GemmCache::Engine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

// One thread's product. The memory objects live as long as the primitive, so that a run only sets four addresses.
struct GemmCache::Piece {
  struct Operands {
    dnnl::memory a, b, c, scratch;
    std::array<dnnl_exec_arg_t, 4> arguments{};
  };
  dnnl::matmul primitive;
  std::size_t scratch_bytes = 0;
  std::vector<Operands> of_thread;

  Piece(const dnnl::engine& engine, const GemmShape& s, int threads) {
    const OneThread one;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.store == Store::Accumulate) {
      dnnl::post_ops post;
      post.append_sum();
      attributes.set_post_ops(post);
    }
    const dnnl::memory::desc a = layout(s.m, s.k, s.ab, s.lda, s.kind == MatmulKind::TN);
    const dnnl::memory::desc b = layout(s.k, s.n, s.ab, s.ldb, s.kind == MatmulKind::NT);
    const dnnl::memory::desc c = layout(s.m, s.n, s.c, s.ldc, false);
    const dnnl::matmul::primitive_desc made(dnnl::matmul::desc(a, b, c), attributes, engine);
    primitive = dnnl::matmul(made);
    scratch_bytes = made.scratchpad_desc().get_size();
    of_thread.resize(static_cast<std::size_t>(threads));
    for (Operands& o : of_thread) {
      o.a = dnnl::memory(a, engine, nullptr);
      o.b = dnnl::memory(b, engine, nullptr);
      o.c = dnnl::memory(c, engine, nullptr);
      o.scratch = dnnl::memory(made.scratchpad_desc(), engine, nullptr);
      o.arguments = {dnnl_exec_arg_t{DNNL_ARG_SRC, o.a.get()},
                     {DNNL_ARG_WEIGHTS, o.b.get()},
                     {DNNL_ARG_DST, o.c.get()},
                     {DNNL_ARG_SCRATCHPAD, o.scratch.get()}};
    }
  }

  dnnl_status_t run(dnnl_stream_t stream, int thread, void* c, const void* a, const void* b, void* scratch) {
    Operands& o = of_thread[static_cast<std::size_t>(thread)];
    dnnl_status_t status = dnnl_memory_set_data_handle(o.a.get(), const_cast<void*>(a));
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(o.b.get(), const_cast<void*>(b));
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(o.c.get(), c);
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(o.scratch.get(), scratch);
    if (status != dnnl_success) return status;
    return dnnl_primitive_execute(primitive.get(), stream, 4, o.arguments.data());
  }
};

struct GemmCache::Plan {
  GemmShape shape;
  GemmTiles tiles;
  bool copies = false;            // operands are copied, as fp32, into the thread's scratch
  bool aside = false;             // C is summed in scratch, from zero, then stored or added
  bool pads = false;              // rows are padded (padded_rows); implies copies and aside
  std::int64_t depth = 0;         // of k at a time
  std::size_t thread_bytes = 0;   // scratch
  std::array<Piece*, 16> pieces;  // by piece_index

  std::int64_t depths() const { return (shape.k + depth - 1) / depth; }
  // Tiles at the bottom and right edges may be smaller, and so may the last block of k; the first block of k may store
  // while the others add.
  static std::size_t piece_index(bool last_row, bool last_column, bool first_depth, bool last_depth) {
    return (last_row ? 1u : 0u) | (last_column ? 2u : 0u) | (first_depth ? 4u : 0u) | (last_depth ? 8u : 0u);
  }

  // One tile's floats in a thread's scratch.
  std::int64_t asked(std::int64_t rows) const { return pads ? padded_rows(rows) : rows; }
  std::int64_t a_floats() const { return copies ? in_lines(asked(tiles.rows) * depth) : 0; }
  std::int64_t b_floats() const { return copies ? in_lines(tiles.columns * depth) : 0; }
  std::int64_t c_floats() const { return aside ? in_lines(asked(tiles.rows) * tiles.columns) : 0; }

  // The product of one tile over `k` terms.
  GemmShape tile_shape(std::int64_t rows, std::int64_t columns, std::int64_t k, bool first_depth) const {
    GemmShape s = shape;
    s.m = asked(rows);
    s.n = columns;
    s.k = k;
    if (aside) {
      s.c = DType::F32;
      s.ldc = columns;
      s.store = Store::Overwrite;
    }
    if (!first_depth) s.store = Store::Accumulate;
    if (!copies) return s;
    s.ab = DType::F32;
    s.lda = s.kind == MatmulKind::TN ? s.m : k;
    s.ldb = s.kind == MatmulKind::NT ? k : columns;
    return s;
  }

  dnnl_status_t run_tile(dnnl_stream_t stream, int thread, std::int64_t tile, char* scratch, void* c, const void* a,
                         const void* b) const {
    const Block at{tiles.row(tile), tiles.column(tile), tiles.rows_at(tile), tiles.columns_at(tile)};
    const bool ta = shape.kind == MatmulKind::TN, tb = shape.kind == MatmulKind::NT;
    const bool last_row = at.row + at.rows == shape.m, last_column = at.column + at.columns == shape.n;
    float* const copy_a = reinterpret_cast<float*>(scratch);
    float* const copy_b = copy_a + a_floats();
    float* const sums = copy_b + b_floats();
    char* const rest = reinterpret_cast<char*>(sums + c_floats());
    void* const to = aside ? sums : const_cast<void*>(address(c, shape.c, shape.ldc, at.row, at.column));
    for (std::int64_t k = 0; k < shape.k; k += depth) {
      const std::int64_t terms = std::min(depth, shape.k - k);
      const Block a_block = ta ? Block{k, at.row, terms, at.rows} : Block{at.row, k, at.rows, terms};
      const Block b_block = tb ? Block{at.column, k, at.columns, terms} : Block{k, at.column, terms, at.columns};
      if (copies) {
        copy_floats(copy_a, ta ? asked(at.rows) : terms, a, shape.ab, shape.lda, a_block);
        copy_floats(copy_b, b_block.columns, b, shape.ab, shape.ldb, b_block);
      }
      Piece& piece = *pieces[piece_index(last_row, last_column, k == 0, k + terms == shape.k)];
      const dnnl_status_t status =
          piece.run(stream, thread, to, copies ? copy_a : address(a, shape.ab, shape.lda, a_block.row, a_block.column),
                    copies ? copy_b : address(b, shape.ab, shape.ldb, b_block.row, b_block.column), rest);
      if (status != dnnl_success) return status;
    }
    if (!aside) return dnnl_success;
    if (shape.store == Store::Accumulate)
      add(c, shape.ldc, at, sums);
    else if (shape.c == DType::BF16)
      put<bf16>(c, shape.ldc, at, sums);
    else
      put<float>(c, shape.ldc, at, sums);
    return dnnl_success;
  }
};

GemmCache::GemmCache(std::size_t thread_bytes)
    : thread_bytes_(thread_bytes),
      engine_(std::make_unique<Engine>()),
      widens_bf16_(effective_isa() != CpuIsa::Avx512Bf16),
      before_avx512_(effective_isa() == CpuIsa::Avx2) {}
GemmCache::~GemmCache() = default;

std::size_t GemmCache::workspace_bytes() { return static_cast<std::size_t>(omp_get_max_threads()) * kThreadBytes; }

std::size_t GemmCache::Hash::operator()(const Key& key) const {
  const GemmShape& s = key.shape;
  std::uint64_t h = 0xcbf29ce484222325ull;
  const auto mix = [&h](std::int64_t x) {
    h = (h ^ static_cast<std::uint64_t>(x)) * 0x9E3779B97F4A7C15ull;
    h ^= h >> 29;
  };
  mix(static_cast<std::int64_t>(s.kind) | static_cast<std::int64_t>(s.store) << 8 |
      static_cast<std::int64_t>(s.ab) << 16 | static_cast<std::int64_t>(s.c) << 24 |
      static_cast<std::int64_t>(key.threads) << 32);
  for (const std::int64_t x : {s.m, s.n, s.k, s.lda, s.ldb, s.ldc}) mix(x);
  return h;
}

GemmCache::Piece& GemmCache::piece(const GemmShape& shape, int threads) {
  std::unique_ptr<Piece>& found = pieces_[Key{shape, threads}];
  if (found == nullptr) {
    try {
      found = std::make_unique<Piece>(engine_->engine, shape, threads);
    } catch (const dnnl::error& e) {
      UPCYCLE_CHECK(false, "oneDNN can not make the {}: {}", describe(shape), e.what());
    }
  }
  return *found;
}

// Whether the tiles fit a thread's scratch.
bool GemmCache::make_pieces(Plan& p, const GemmShape& s, int threads) {
  p.depth = p.copies ? even_part(s.k, kCopiedDepth) : s.k;
  const std::size_t own = static_cast<std::size_t>(p.a_floats() + p.b_floats() + p.c_floats()) * sizeof(float);
  p.thread_bytes = own;
  if (own > thread_bytes_) return false;
  const std::int64_t last = p.tiles.count() - 1, depths = p.depths();
  for (const bool last_row : {false, true})
    for (const bool last_column : {false, true})
      for (const std::int64_t i : {std::int64_t{0}, std::int64_t{1}, depths - 1}) {
        if (i >= depths) continue;
        const std::int64_t rows = last_row ? p.tiles.rows_at(last) : p.tiles.rows;
        const std::int64_t columns = last_column ? p.tiles.columns_at(last) : p.tiles.columns;
        const std::int64_t terms = std::min(p.depth, s.k - i * p.depth);
        Piece& made = piece(p.tile_shape(rows, columns, terms, i == 0), threads);
        p.thread_bytes = std::max(p.thread_bytes, own + made.scratch_bytes);
        p.pieces[Plan::piece_index(last_row, last_column, i == 0, i + 1 == depths)] = &made;
      }
  return p.thread_bytes <= thread_bytes_;
}

GemmCache::Plan& GemmCache::plan(const GemmShape& shape) {
  const int threads = omp_get_max_threads();
  std::unique_ptr<Plan>& found = plans_[Key{shape, threads}];
  if (found == nullptr) {
    auto made = std::make_unique<Plan>();
    made->shape = shape;
    made->copies = shape.ab == DType::BF16 ? widens_bf16_ : before_avx512_;
    made->pads = before_avx512_;
    made->aside = before_avx512_ || (made->copies && shape.c == DType::BF16);
    made->tiles = choose_tiles(shape.m, shape.n, shape.k, threads, before_avx512_ ? kMostPaddedRows : kMostTileRows);
    while (!make_pieces(*made, shape, threads)) {
      UPCYCLE_CHECK(made->tiles.rows > 1 || made->tiles.columns > 1, "{}: {} bytes of scratch for one element",
                    describe(shape), made->thread_bytes);
      made->tiles = halve_tiles(made->tiles);
    }
    found = std::move(made);
  }
  return *found;
}

std::int64_t GemmCache::tiles(const GemmShape& shape) { return plan(shape).tiles.count(); }

void GemmCache::prepare(const GemmShape& shape) {
  if (shape.m > 0 && shape.n > 0 && shape.k > 0) plan(shape);
}

void GemmCache::run(Workspace workspace, const GemmShape& s, void* c, const void* a, const void* b) {
  UPCYCLE_CHECK(!omp_in_parallel(), "{} inside a parallel region", describe(s));
  if (s.m == 0 || s.n == 0) return;
  if (s.k == 0) {
    if (s.store == Store::Accumulate) return;
    for (std::int64_t i = 0; i < s.m; ++i)
      std::memset(static_cast<char*>(c) + static_cast<std::size_t>(i * s.ldc) * size_of(s.c), 0,
                  static_cast<std::size_t>(s.n) * size_of(s.c));
    return;
  }
  const Plan& p = plan(s);
  const std::int64_t tiles = p.tiles.count();
  const std::size_t needed = thread_bytes_ * static_cast<std::size_t>(omp_get_max_threads());
  UPCYCLE_CHECK(needed <= workspace.bytes, "{}: {} bytes of workspace, needs {}", describe(s), workspace.bytes, needed);
  char* const scratch = static_cast<char*>(workspace.data);
  std::atomic<dnnl_status_t> failed = dnnl_success;
  const auto run_tile = [&](std::int64_t tile, int thread) {
    const dnnl_status_t status = p.run_tile(engine_->stream.get(), thread, tile,
                                            scratch + thread_bytes_ * static_cast<std::size_t>(thread), c, a, b);
    if (status != dnnl_success) failed = status;
  };
  if (tiles == 1) {
    const OneThread one;
    run_tile(0, 0);
  } else {
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t tile = 0; tile < tiles; ++tile) run_tile(tile, omp_get_thread_num());
  }
  UPCYCLE_CHECK(failed == dnnl_success, "oneDNN status {} in the {}", static_cast<int>(failed.load()), describe(s));
}

}  // namespace upcycle
