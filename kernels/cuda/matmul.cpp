#include "core/cuda_error.h"
#include "core/device.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemms.h"

namespace upcycle {

using namespace cuda;

CudaOps::CudaOps() : gemms_(std::make_unique<Gemms>()), lanes_(std::make_unique<Lanes>()) {}
CudaOps::~CudaOps() = default;

std::size_t CudaOps::chosen_algorithms() const { return gemms_->size(); }

void CudaOps::matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                     const Tensor& b, Store store) {
  const GemmShape s = checked_matmul(kind, c, a, b, store);
  if (s.m == 0 || s.n == 0) return;
  check_workspace("matmul", workspace, kGemmWorkspaceBytes);
  if (s.k > 0)
    return gemms_->run(static_cast<cudaStream_t>(stream.native()), workspace.data,
                       {s, Gemms::alignment_of({c.data, a.data, b.data})}, c.data, a.data, b.data);
  if (store == Store::Overwrite) fill(stream, c, 0);
}

}  // namespace upcycle
