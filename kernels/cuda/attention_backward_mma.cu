#include <climits>
#include <cmath>

#include "core/trace.h"
#include "kernels/cuda/attention_mma.cuh"

// The backward on tensor cores. One kernel with two uses: its own rows are keys, and it sums dk and dv over the query
// rows; or its own rows are query rows, and it sums dq over the keys. With own rows (A1, A2) = (k, v) or (q, dout) and
// other rows (B1, B2) = (q, dout) or (k, v), both compute: x = weights of A1 B1^T, y = dscores of A2 B2^T, then y B1
// and x B2.
namespace upcycle::cuda {
namespace {

// The largest tiles whose scores and sums stay in registers: for dq of narrow heads a warp has two 16-row products,
// which share the loaded keys and values; dk and dv of wide heads leave room for fewer other rows.
template <int kD, bool kOwnKeys>
using Z = MmaTile<kD, kD == 64 && !kOwnKeys ? 2 : 1, (kD == 64) == kOwnKeys ? 64 : 32>;

// Per query row, what its scores need.
struct RowState {
  float lse2, delta;  // log2-sum-exp2; see attention_delta_kernel
  int limit;          // the last key it sees; INT_MIN: no row
};

template <class Tile>
constexpr std::size_t shared_bytes(bool own_keys) {
  return (2 * Tile::kRowElements + 4 * Tile::kKeyElements) * sizeof(bf16_t) +
         (own_keys ? 2 * Tile::kKeys * sizeof(RowState) : 0);
}

// own1, own2: dq and nothing, or dk and dv.
template <int kD, bool kOwnKeys>
__global__ void __launch_bounds__(kWarps * 32)
    attention_backward_mma_kernel(Rows<bf16_t> own1, Rows<bf16_t> own2, Rows<const bf16_t> dout, Rows<const bf16_t> q,
                                  Rows<const bf16_t> k, Rows<const bf16_t> v, const float* __restrict__ lse,
                                  const float* __restrict__ delta, AttentionShape s) {
  using Tile = Z<kD, kOwnKeys>;
  constexpr int kM = Tile::kM, kOwn = Tile::kRows, kOthers = Tile::kKeys, kGroups = kOthers / 8;
  GPU_DYN_SHARED(bf16_t, smem);
  bf16_t* const own_tiles = smem;                                                              // A1, A2
  bf16_t* const other_tiles = own_tiles + 2 * Tile::kRowElements;                              // B1, B2; and again
  RowState* const states = reinterpret_cast<RowState*>(other_tiles + 4 * Tile::kKeyElements);  // of others; and again
  const Part part = part_of(s, !kOwnKeys);
  const int all_queries = part.q_rows * s.G, begin = part.tile * kOwn;
  const int rows = min(kOwn, (kOwnKeys ? part.k_rows : all_queries) - begin);
  if (rows <= 0) return;
  const int lane = threadIdx.x % 32, warp_row = static_cast<int>(threadIdx.x) / 32 * kM * 16;
  const float log2_scale = s.scale * kLog2e;
  const std::int64_t column = static_cast<std::int64_t>(part.head) * kD;

  const auto fetch_queries = [&]<int kRows>(bf16_t* to, int first, int count) {
    const std::int64_t at = part.q_begin;
    fetch_tile<Tile, kRows>(to, q.data + at * q.stride + column * s.G, q.stride, s.G, first, count);
    fetch_tile<Tile, kRows>(to + kRows * Tile::kStride, dout.data + at * dout.stride + column * s.G, dout.stride, s.G,
                            first, count);
  };
  const auto fetch_keys = [&]<int kRows>(bf16_t* to, int first, int count) {
    const std::int64_t at = part.k_begin + first;
    fetch_tile<Tile, kRows>(to, k.data + at * k.stride + column, k.stride, 1, 0, count);
    fetch_tile<Tile, kRows>(to + kRows * Tile::kStride, v.data + at * v.stride + column, v.stride, 1, 0, count);
  };
  const auto state_of = [&](int p) {
    if (p >= all_queries) return RowState{0.0f, 0.0f, INT_MIN};
    const std::int64_t at = (static_cast<std::int64_t>(part.head) * s.G + p % s.G) * s.Tq + part.q_begin + p / s.G;
    return RowState{lse[at] * kLog2e, delta[at], p / s.G + part.shift()};
  };

  // Skip query rows before the first that sees these keys, and keys that none of these rows sees.
  const int others_begin = kOwnKeys ? max(0, begin - part.shift()) * s.G : 0;
  const int others_end = kOwnKeys ? all_queries : (begin + rows - 1) / s.G + part.shift() + 1;
  const auto fetch_others = [&](int first, int buffer) {
    bf16_t* const to = other_tiles + buffer * 2 * Tile::kKeyElements;
    if constexpr (kOwnKeys) {
      fetch_queries.template operator()<kOthers>(to, first, others_end - first);
      if (threadIdx.x < kOthers)
        states[buffer * kOthers + threadIdx.x] = state_of(first + static_cast<int>(threadIdx.x));
    } else {
      fetch_keys.template operator()<kOthers>(to, first, others_end - first);
    }
    gpu::cp_async_commit();
  };
  RowState own_state[kM][2];
  if constexpr (!kOwnKeys) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) own_state[m][h] = state_of(begin + warp_row + m * 16 + h * 8 + lane / 4);
  }
  if (others_begin < others_end) {
    if constexpr (kOwnKeys)
      fetch_keys.template operator()<kOwn>(own_tiles, begin, rows);
    else
      fetch_queries.template operator()<kOwn>(own_tiles, begin, rows);
    fetch_others(others_begin, 0);
  }

  constexpr int kSecond = kOwnKeys ? kD / 8 : 1;  // dq has no second result
  float sums1[kM][kD / 8][4], sums2[kM][kSecond][4];
  set_zero(sums1);
  set_zero(sums2);
  for (int first = others_begin, buffer = 0; first < others_end; first += kOthers, buffer ^= 1) {
    if (first + kOthers < others_end) {
      fetch_others(first + kOthers, buffer ^ 1);
      gpu::cp_async_wait<1>();
    } else {
      gpu::cp_async_wait<0>();
    }
    __syncthreads();
    const bf16_t* const other1 = other_tiles + buffer * 2 * Tile::kKeyElements;
    const bf16_t* const other2 = other1 + Tile::kKeyElements;
    const bf16_t* const mine = own_tiles + warp_row * Tile::kStride;
    float x[kM][kGroups][4], y[kM][kGroups][4];
    multiply_tiles<Tile>(x, mine, other1);
    multiply_tiles<Tile>(y, mine + Tile::kRowElements, other2);
#pragma unroll
    for (int n = 0; n < kGroups; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const int in_tile = n * 8 + lane % 4 * 2 + c % 2;
          RowState row;
          int key;
          if constexpr (kOwnKeys) {
            row = states[buffer * kOthers + in_tile];
            key = begin + warp_row + m * 16 + c / 2 * 8 + lane / 4;
          } else {
            row = own_state[m][c / 2];
            key = first + in_tile;
          }
          const bool seen = key <= row.limit;
          x[m][n][c] = seen ? exp2f(x[m][n][c] * log2_scale - row.lse2) : 0.0f;
          y[m][n][c] = seen ? x[m][n][c] * (y[m][n][c] - row.delta) : 0.0f;
        }
    add_tile<Tile>(sums1, y, other1);
    if constexpr (kOwnKeys) add_tile<Tile>(sums2, x, other2);
    __syncthreads();  // the buffer just read is filled again next
  }

  const auto row_of = [&](const Rows<bf16_t>& to, int r) -> bf16_t* {
    const int p = begin + warp_row + r;
    if (warp_row + r >= rows) return nullptr;
    if constexpr (kOwnKeys) return to.data + static_cast<std::int64_t>(part.k_begin + p) * to.stride + column;
    return to.data + (part.q_begin + p / s.G) * to.stride + column * s.G + p % s.G * kD;
  };
  float factor1[kM][2], factor2[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) factor1[m][h] = s.scale, factor2[m][h] = 1.0f;
  bf16_t* const tile = own_tiles + warp_row * Tile::kStride;
  store_rows<Tile>(tile, sums1, factor1, [&](int r) { return row_of(own1, r); });
  if constexpr (kOwnKeys)
    store_rows<Tile>(tile + Tile::kRowElements, sums2, factor2, [&](int r) { return row_of(own2, r); });
}

template <int kD>
void launch(Stream& stream, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
            const Tensor& k, const Tensor& v, const float* lse, const float* delta, AttentionShape s,
            std::int64_t q_rows, std::int64_t k_rows, std::int64_t sequences, std::int64_t K) {
  const TraceRange range("attention_backward_mma");
  using In = Rows<const bf16_t>;
  using Out = Rows<bf16_t>;
  if (k_rows > 0) {
    const dim3 grid = attention_grid(s, k_rows, Z<kD, true>::kRows, sequences, K);
    UPCYCLE_CUDA(gpu::launch({grid, kWarps * 32, shared_bytes<Z<kD, true>>(true), native(stream)},
                             attention_backward_mma_kernel<kD, true>, Out(dk), Out(dv), In(dout), In(q), In(k), In(v),
                             lse, delta, s));
  }
  if (q_rows > 0) {
    const dim3 grid = attention_grid(s, q_rows, Z<kD, false>::kRows, sequences, K);
    UPCYCLE_CUDA(gpu::launch({grid, kWarps * 32, shared_bytes<Z<kD, false>>(false), native(stream)},
                             attention_backward_mma_kernel<kD, false>, Out(dq), Out(dq), In(dout), In(q), In(k), In(v),
                             lse, delta, s));
  }
}

}  // namespace

bool attention_backward_mma(Stream& stream, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                            const Tensor& q, const Tensor& k, const Tensor& v, const float* lse, const float* delta,
                            const AttentionShape& s, std::int64_t q_rows, std::int64_t k_rows, std::int64_t sequences,
                            std::int64_t K) {
  if (q.dtype != DType::BF16 || !s.whole_vectors || !whole_vectors(dq) || !whole_vectors(dk) || !whole_vectors(dv))
    return false;
  if (s.D == 64)
    return launch<64>(stream, dq, dk, dv, dout, q, k, v, lse, delta, s, q_rows, k_rows, sequences, K), true;
  if (s.D == 128)
    return launch<128>(stream, dq, dk, dv, dout, q, k, v, lse, delta, s, q_rows, k_rows, sequences, K), true;
  return false;
}

}  // namespace upcycle::cuda
