#include <algorithm>
#include <cstring>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/linear_xent.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/linear_xent.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

// One row of dlogits = (softmax - onehot) * scale; out may be logits itself.
template <class T>
void softmax_gradient(T* out, const float* logits, std::int64_t columns, std::int64_t target, float lse, float scale) {
  const bool here = target >= 0 && target < columns;
  const float at_target = here ? (fast_exp(logits[target] - lse) - 1.0f) * scale : 0.0f;
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j) store(out + j, fast_exp(logits[j] - lse) * scale);
  if (here) store(out + target, at_target);
}

template <class T>
void dlogits_block(T* out, const float* logits, std::int64_t rows, std::int64_t columns, const std::int32_t* targets,
                   std::int64_t vocab_first, const float* lse, float scale) {
#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t i = 0; i < rows; ++i) {
    if (targets[i] < 0)
      std::fill_n(out + i * columns, columns, T{});
    else
      softmax_gradient(out + i * columns, logits + i * columns, columns, targets[i] - vocab_first, lse[i], scale);
  }
}

}  // namespace

std::size_t CpuOps::linear_xent_backward_workspace(const OpLimits& limits) {
  return linear_xent_stats_workspace(limits);
}

void CpuOps::linear_xent_backward(Stream& stream, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                  const Tensor& x, const Tensor& weight, const Tensor& targets, const Tensor& lse,
                                  std::int64_t vocab_begin, std::int64_t vocab_valid, float scale) {
  const LinearXentSizes sizes = check_linear_xent_backward(dx, dweight, x, weight, targets, lse, vocab_valid);
  const std::int64_t T = sizes.T, V = sizes.V, H = sizes.H;  // clang takes no bindings into parallel regions
  const XentScratch scratch = place_xent_scratch(xent_cut(), workspace.data, T, V, H, x.dtype);
  check_workspace("linear_xent_backward", workspace, scratch.bytes);
  // Sums over vocabulary blocks stay in fp32 and are rounded once.
  Tensor sum = dx;
  if (dx.dtype != DType::F32) sum = Tensor(scratch.dx, DType::F32, {T, H});
  const std::int32_t* const target = targets.as<std::int32_t>();
  const XentCut cut = xent_cut();
  const std::int64_t vocab_block = block_size(vocab_valid, cut.vocab, cut.unit),
                     token_block = block_size(T, cut.tokens, cut.unit);

  for (std::int64_t v = 0; v < vocab_valid; v += vocab_block) {
    const std::int64_t columns = std::min(vocab_block, vocab_valid - v);
    const Tensor w = weight.slice_rows(v, v + columns), dw = dweight.slice_rows(v, v + columns);
    const std::int64_t ldw = leading_dimension(w);
    for (std::int64_t first = 0; first < T; first += token_block) {
      const std::int64_t rows = std::min(token_block, T - first);
      const Tensor x_rows = x.slice_rows(first, first + rows), dx_rows = sum.slice_rows(first, first + rows);
      const std::int64_t ldx = leading_dimension(x_rows);
      const GemmShape logits{.kind = MatmulKind::NT,
                             .ab = x.dtype,
                             .m = rows,
                             .n = columns,
                             .k = H,
                             .lda = ldx,
                             .ldb = ldw,
                             .ldc = columns};
      const GemmShape to_weight{.kind = MatmulKind::TN,
                                .store = Store::Accumulate,
                                .ab = x.dtype,
                                .m = columns,
                                .n = H,
                                .k = rows,
                                .lda = columns,
                                .ldb = ldx,
                                .ldc = leading_dimension(dw)};
      const GemmShape to_x{.kind = MatmulKind::NN,
                           .store = v == 0 ? Store::Overwrite : Store::Accumulate,
                           .ab = x.dtype,
                           .m = rows,
                           .n = H,
                           .k = columns,
                           .lda = columns,
                           .ldb = ldw,
                           .ldc = leading_dimension(dx_rows)};
      gemms_->run(scratch.gemm, logits, scratch.logits, x_rows.data, w.data);
      if (x.dtype == DType::F32)
        dlogits_block(static_cast<float*>(scratch.dlogits), scratch.logits, rows, columns, target + first,
                      vocab_begin + v, lse.as<float>() + first, scale);
      else
        dlogits_block(static_cast<bf16*>(scratch.dlogits), scratch.logits, rows, columns, target + first,
                      vocab_begin + v, lse.as<float>() + first, scale);
      gemms_->run(scratch.gemm, to_weight, dw.data, scratch.dlogits, x_rows.data);
      gemms_->run(scratch.gemm, to_x, dx_rows.data, scratch.dlogits, w.data);
      stream.poll();
    }
  }

  const bool empty = vocab_valid == 0;
  if (dx.dtype == DType::F32 && !empty) return;
#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t t = 0; t < T; ++t) {
    char* const row = static_cast<char*>(dx.data) + static_cast<std::size_t>(t * dx.row_stride) * size_of(dx.dtype);
    if (empty)
      std::memset(row, 0, static_cast<std::size_t>(H) * size_of(dx.dtype));
    else
      for (std::int64_t j = 0; j < H; ++j) store(reinterpret_cast<bf16*>(row) + j, load(scratch.dx + t * H + j));
  }
}

}  // namespace upcycle
