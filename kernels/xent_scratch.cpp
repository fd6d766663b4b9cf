#include "kernels/xent_scratch.h"

namespace upcycle {

XentScratch place_xent_scratch(const XentCut& cut, void* base, std::int64_t T, std::int64_t V, std::int64_t H,
                               DType dtype) {
  std::size_t used = 0;
  const auto take = [&](std::size_t bytes) {
    void* const p = base == nullptr ? nullptr : static_cast<char*>(base) + used;
    used += (bytes + cut.alignment - 1) / cut.alignment * cut.alignment;
    return p;
  };
  const auto block =
      static_cast<std::size_t>(std::min(T, cut.tokens) * std::min(block_size(V, V, cut.unit), cut.vocab));
  XentScratch s{};
  s.logits = static_cast<float*>(take(block * sizeof(float)));
  s.dlogits = dtype == DType::F32 ? s.logits : take(block * size_of(dtype));
  s.dx = static_cast<float*>(dtype == DType::F32 ? nullptr : take(static_cast<std::size_t>(T * H) * sizeof(float)));
  s.gemm.bytes = cut.gemm_bytes;
  s.gemm.data = take(s.gemm.bytes);
  s.bytes = used;
  return s;
}

}  // namespace upcycle
