#include "core/check.h"
#include "kernels/checks/embedding.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/token_sort.cuh"

namespace upcycle {
namespace {

using namespace cuda;

constexpr unsigned kSumThreads = 128;

// Copies bits: Piece is 16 bytes of a row, or one element. H and strides count pieces.
template <class Piece>
__global__ void forward(RowGrid grid, Piece* out, std::int64_t stride, const Piece* table, const std::int32_t* tokens,
                        std::int64_t V, std::int64_t H, std::int64_t vocab_begin) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t row = tokens[at.row] - vocab_begin;
  out[at.row * stride + at.group] = row >= 0 && row < V ? table[row * H + at.group] : Piece{};
}

// The table row of the i-th sorted token, V if it is held elsewhere: ascending in i.
struct SortedRows {
  const std::int32_t *tokens, *sorted;
  std::int64_t T, V, vocab_begin;

  __device__ __forceinline__ std::int64_t operator()(std::int64_t i) const {
    const std::int64_t row = tokens[sorted[i]] - vocab_begin;
    return row >= 0 && row < V ? row : V;
  }
  // The end of the run that begins at `first`, by binary search, so that the loop over the run can issue loads ahead.
  __device__ __forceinline__ std::int64_t run_end(std::int64_t first, std::int64_t row) const {
    std::int64_t low = first + 1, high = T;
    if (low == T || (*this)(low) != row) return low;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if ((*this)(middle) == row)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

// One block per sorted token and range of columns: the block at the start of a table row's run adds the whole run, in
// token order; the others do nothing.
template <class T, int N>
__global__ void backward(float* dtable, const T* dout, std::int64_t stride, SortedRows rows, std::int64_t H) {
  const std::int64_t first = blockIdx.x, h = (std::int64_t{blockIdx.y} * kSumThreads + threadIdx.x) * N;
  const std::int64_t row = rows(first);
  if (h >= H || row == rows.V || (first > 0 && rows(first - 1) == row)) return;
  const std::int64_t end = rows.run_end(first, row);
  float sum[N];
  Access<float, N>::load(sum, dtable + row * H + h);
#pragma unroll 4
  for (std::int64_t i = first; i < end; ++i) {
    float d[N];
    Access<T, N>::load(d, dout + rows.sorted[i] * stride + h);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += d[j];
  }
  Access<float, N>::store(dtable + row * H + h, sum);
}

}  // namespace

void CudaOps::embedding_forward(Stream& stream, const Tensor& out, const Tensor& table, const Tensor& tokens,
                                std::int64_t vocab_begin) {
  const EmbeddingSizes z = check_embedding_forward(out, table, tokens);
  const auto launch = [&]<class Piece>(Piece, std::int64_t elements) {
    launch_rows("embedding_forward", stream, z.T, z.H / elements, forward<Piece>, static_cast<Piece*>(out.data),
                out.row_stride / elements, static_cast<const Piece*>(table.data), tokens.as<std::int32_t>(), z.V,
                z.H / elements, vocab_begin);
  };
  if (whole_vectors(out) && whole_vectors(table))
    launch(uint4{}, static_cast<std::int64_t>(16 / size_of(out.dtype)));
  else if (out.dtype == DType::BF16)
    launch(std::uint16_t{}, 1);
  else
    launch(std::uint32_t{}, 1);
}

void CudaOps::embedding_backward(Stream& stream, Workspace workspace, const Tensor& dtable, const Tensor& dout,
                                 const Tensor& tokens, std::int64_t vocab_begin) {
  const EmbeddingSizes z = check_embedding_backward(dtable, dout, tokens);
  const std::int64_t rows = z.T, V = z.V, H = z.H;
  float* const to = dtable.as<float>();
  if (rows == 0 || V == 0 || H == 0) return;
  const std::int32_t* const ids = tokens.as<std::int32_t>();
  const std::int32_t* const sorted = sort_tokens(stream, workspace, ids, rows, V, vocab_begin);
  with_type(dout, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = whole_vectors(dout) && whole_vectors(dtable);
    const std::int64_t per_block = kSumThreads * (whole ? N : 1), across = (H + per_block - 1) / per_block;
    UPCYCLE_CHECK(rows < std::int64_t{1} << 31 && across < 65536, "embedding_backward: {} is too large",
                  dout.describe());
    UPCYCLE_CUDA(gpu::launch(
        {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(across)), dim3(kSumThreads), 0, native(stream)},
        whole ? backward<T, N> : backward<T, 1>, to, static_cast<const T*>(dout.data), dout.row_stride,
        SortedRows{ids, sorted, rows, V, vocab_begin}, H));
  });
}

}  // namespace upcycle
