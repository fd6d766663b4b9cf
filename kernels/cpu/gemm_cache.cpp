#include "kernels/cpu/gemm_cache.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

namespace upcycle {
namespace {

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

void check(dnnl_status_t status, const GemmShape& shape) {
  UPCYCLE_CHECK(status == dnnl_success, "oneDNN status {} in the {}", static_cast<int>(status), describe(shape));
}

}  // namespace

struct GemmCache::Engine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

// The memory objects live as long as the primitive, so that a run only sets four addresses.
struct GemmCache::Plan {
  // A block of C's rows; usually the only one.
  struct Block {
    std::int64_t row = 0;
    dnnl::matmul primitive;
    dnnl::memory a, b, c, scratch;
    std::size_t scratch_bytes = 0;
    std::array<dnnl_exec_arg_t, 4> arguments{};
  };
  std::vector<Block> blocks;

  Plan(const dnnl::engine& engine, const GemmShape& shape, std::size_t scratch_limit) {
    add(engine, shape, scratch_limit, 0, shape.m);
  }

  void add(const dnnl::engine& engine, const GemmShape& s, std::size_t scratch_limit, std::int64_t begin,
           std::int64_t end) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.store == Store::Accumulate) {
      dnnl::post_ops post;
      post.append_sum();
      attributes.set_post_ops(post);
    }
    const dnnl::memory::desc a = layout(end - begin, s.k, s.ab, s.lda, s.kind == MatmulKind::TN);
    const dnnl::memory::desc b = layout(s.k, s.n, s.ab, s.ldb, s.kind == MatmulKind::NT);
    const dnnl::memory::desc c = layout(end - begin, s.n, s.c, s.ldc, false);
    const dnnl::matmul::primitive_desc made(dnnl::matmul::desc(a, b, c), attributes, engine);
    const std::size_t scratch_bytes = made.scratchpad_desc().get_size();
    if (scratch_bytes > scratch_limit) {
      UPCYCLE_CHECK(end - begin > 1, "{}: oneDNN wants {} bytes of scratch for one row", describe(s), scratch_bytes);
      const std::int64_t middle = begin + (end - begin + 1) / 2;
      add(engine, s, scratch_limit, begin, middle);
      add(engine, s, scratch_limit, middle, end);
      return;
    }
    Block& block = blocks.emplace_back();
    block.row = begin;
    block.primitive = dnnl::matmul(made);
    block.a = dnnl::memory(a, engine, nullptr);
    block.b = dnnl::memory(b, engine, nullptr);
    block.c = dnnl::memory(c, engine, nullptr);
    block.scratch = dnnl::memory(made.scratchpad_desc(), engine, nullptr);
    block.scratch_bytes = scratch_bytes;
    block.arguments = {dnnl_exec_arg_t{DNNL_ARG_SRC, block.a.get()},
                       {DNNL_ARG_WEIGHTS, block.b.get()},
                       {DNNL_ARG_DST, block.c.get()},
                       {DNNL_ARG_SCRATCHPAD, block.scratch.get()}};
  }
};

GemmCache::GemmCache(std::size_t scratch_limit) : scratch_limit_(scratch_limit), engine_(std::make_unique<Engine>()) {}
GemmCache::~GemmCache() = default;

// A few blocks a thread is what oneDNN packs; only sums over k split across threads (one copy of C each) ask for more.
std::size_t GemmCache::workspace_bytes() {
  return (std::size_t{8} << 20) + (static_cast<std::size_t>(omp_get_max_threads()) << 20);
}

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

GemmCache::Plan& GemmCache::plan(const GemmShape& shape) {
  std::unique_ptr<Plan>& found = plans_[Key{shape, omp_get_max_threads()}];
  if (found == nullptr) {
    try {
      found = std::make_unique<Plan>(engine_->engine, shape, scratch_limit_);
    } catch (const dnnl::error& e) {
      if (e.status == dnnl_unimplemented && shape.ab == DType::BF16)
        input_error("dtype: found bf16, expected fp32 on this processor: oneDNN's bf16 needs AVX-512; use dtype fp32");
      UPCYCLE_CHECK(false, "oneDNN can not make the {}: {}", describe(shape), e.what());
    }
  }
  return *found;
}

std::size_t GemmCache::blocks(const GemmShape& shape) { return plan(shape).blocks.size(); }

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
  const std::int64_t a_step = (s.kind == MatmulKind::TN ? 1 : s.lda) * static_cast<std::int64_t>(size_of(s.ab));
  const std::int64_t c_step = s.ldc * static_cast<std::int64_t>(size_of(s.c));
  for (const Plan::Block& block : plan(s).blocks) {
    UPCYCLE_CHECK(block.scratch_bytes <= workspace.bytes, "{}: {} bytes of workspace, needs {}", describe(s),
                  workspace.bytes, block.scratch_bytes);
    check(
        dnnl_memory_set_data_handle(block.a.get(), const_cast<char*>(static_cast<const char*>(a)) + block.row * a_step),
        s);
    check(dnnl_memory_set_data_handle(block.b.get(), const_cast<void*>(b)), s);
    check(dnnl_memory_set_data_handle(block.c.get(), static_cast<char*>(c) + block.row * c_step), s);
    check(dnnl_memory_set_data_handle(block.scratch.get(), workspace.data), s);
    check(dnnl_primitive_execute(block.primitive.get(), engine_->stream.get(), 4, block.arguments.data()), s);
  }
}

}  // namespace upcycle
