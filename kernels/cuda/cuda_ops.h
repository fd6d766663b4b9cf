#pragma once
#include <memory>

#include "kernels/cuda_scratch.h"
#include "kernels/ops.h"

namespace upcycle {

namespace cuda {
struct Gemms;
struct Lanes;
}  // namespace cuda

// The CUDA implementation: GEMM by cuBLASLt, the rest hand-written. One op per file in this folder: kernel above,
// launcher below. Calls are asynchronous on the stream; none allocates or synchronizes.
class CudaOps final : public Ops {
 public:
  CudaOps();
  ~CudaOps() override;

  std::size_t workspace_bytes(const OpLimits& limits) const override { return cuda::scratch::most_bytes(limits); }
  void prepare(const OpLimits& limits) override;
#define UPCYCLE_OP(name, ...) void name(__VA_ARGS__) override;
#include "kernels/ops.inc"

  // Matrix products whose algorithm has been chosen so far; a step after the first chooses none.
  std::size_t chosen_algorithms() const;

 private:
  std::unique_ptr<cuda::Gemms> gemms_;  // cuBLASLt handle, and the algorithm chosen for each shape
  std::unique_ptr<cuda::Lanes> lanes_;  // streams of grouped_matmul
};

std::unique_ptr<Ops> make_cuda_ops();

}  // namespace upcycle
