#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/checks/embedding.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 15;  // elements; below, waking threads costs more than the work

// A thread owns a range of columns and visits all tokens, so every element of the table is summed in token order for
// any number of threads.
template <class T>
void backward(float* dtable, const Tensor& dout, const std::int32_t* tokens, std::int64_t V, std::int64_t vocab_begin) {
  constexpr std::int64_t kCacheLine = 16;  // floats: threads do not share one
  const std::int64_t rows = dout.rows(), H = dout.columns();
  const std::int64_t lines = (H + kCacheLine - 1) / kCacheLine;
#pragma omp parallel if (rows * H >= kParallelFrom)
  {
    const std::int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    const std::int64_t begin = lines * me / threads * kCacheLine;
    const std::int64_t end = std::min(H, lines * (me + 1) / threads * kCacheLine);
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::int64_t row = tokens[t] - vocab_begin;
      if (row < 0 || row >= V) continue;
      float* to = dtable + row * H;
      const T* from = dout.as<T>() + t * dout.row_stride;
#pragma omp simd
      for (std::int64_t h = begin; h < end; ++h) to[h] += load(from + h);
    }
  }
}

}  // namespace

std::size_t CpuOps::embedding_backward_workspace(const OpLimits&) { return 0; }

void CpuOps::embedding_forward(Stream&, const Tensor& out, const Tensor& table, const Tensor& tokens,
                               std::int64_t vocab_begin) {
  const EmbeddingSizes z = check_embedding_forward(out, table, tokens);
  const std::size_t width = size_of(out.dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(z.H) * width;
  const std::int32_t* ids = tokens.as<std::int32_t>();
#pragma omp parallel for if (out.size() >= kParallelFrom)
  for (std::int64_t t = 0; t < z.T; ++t) {
    char* to = static_cast<char*>(out.data) + static_cast<std::size_t>(t * out.row_stride) * width;
    const std::int64_t row = ids[t] - vocab_begin;
    if (row < 0 || row >= z.V) {
      std::memset(to, 0, row_bytes);
    } else {
      std::memcpy(to, static_cast<const char*>(table.data) + static_cast<std::size_t>(row) * row_bytes, row_bytes);
    }
  }
}

void CpuOps::embedding_backward(Stream&, Workspace, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                                std::int64_t vocab_begin) {
  const EmbeddingSizes z = check_embedding_backward(dtable, dout, tokens);
  const std::int32_t* ids = tokens.as<std::int32_t>();
  if (dout.dtype == DType::BF16) {
    backward<bf16>(dtable.as<float>(), dout, ids, z.V, vocab_begin);
  } else {
    backward<float>(dtable.as<float>(), dout, ids, z.V, vocab_begin);
  }
}

}  // namespace upcycle
