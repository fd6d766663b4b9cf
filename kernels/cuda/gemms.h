#pragma once
#include <cublasLt.h>

#include <unordered_map>
#include <vector>

#include "core/check.h"
#include "kernels/cuda_scratch.h"
#include "kernels/gemm_shape.h"

#define UPCYCLE_CUBLASLT(call)                                                        \
  do {                                                                                \
    const cublasStatus_t upcycle_status = (call);                                     \
    UPCYCLE_CHECK(upcycle_status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: {}: {}", #call, \
                  cublasLtGetStatusString(upcycle_status));                           \
  } while (false)

namespace upcycle::cuda {

// Experts' products divide it: one part for each that may run concurrently.
inline constexpr int kExpertLanes = 4;
inline constexpr std::size_t kLaneWorkspaceBytes = kGemmWorkspaceBytes / kExpertLanes;

// cuBLASLt's algorithms by shape, each chosen by its heuristic on first use, then kept: the same shape always gets the
// same algorithm, so that the same inputs give the same bits. Not thread-safe.
struct Gemms {
  Gemms();
  ~Gemms();
  Gemms(const Gemms&) = delete;
  Gemms& operator=(const Gemms&) = delete;

  // Alignment of all operands' addresses, in bytes, up to the most that any algorithm asks for.
  static constexpr std::uint32_t kBestAlignment = 16;
  static std::uint32_t alignment_of(std::initializer_list<const void*> operands);

  // A product (no size zero), and what its algorithm may assume: the same key always gets the same algorithm.
  struct Key {
    GemmShape shape;
    std::uint32_t alignment = kBestAlignment;
    std::size_t workspace_bytes = kGemmWorkspaceBytes;
    bool operator==(const Key&) const = default;
  };
  void prepare(const Key& key) { plan(key); }
  // Throws Error if cuBLASLt has no such product. `workspace`: key.workspace_bytes.
  void run(cudaStream_t stream, void* workspace, const Key& key, void* c, const void* a, const void* b);
  std::size_t size() const { return plans_.size(); }

 private:
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  struct Plan {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t first, second, result;  // column-major: B, A and C transposed
    cublasLtMatmulAlgo_t algorithm;
    std::size_t workspace_bytes;
  };
  Plan& plan(const Key& key);

  cublasLtHandle_t handle_ = nullptr;
  std::unordered_map<Key, Plan, Hash> plans_;
};

// Additional streams, on which experts' products run concurrently: kExpertLanes in all; lane 0 is the op's own stream.
struct Lanes {
  Lanes();
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  // fork: lanes 1 to count - 1 start after the work already on `main`. join: `main` continues after all of them.
  void fork(cudaStream_t main, int count);
  void join(cudaStream_t main, int count);
  cudaStream_t stream(cudaStream_t main, int lane) const {
    return lane == 0 ? main : streams_[static_cast<std::size_t>(lane - 1)];
  }

 private:
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> joined_;
  cudaEvent_t forked_ = nullptr;
};

}  // namespace upcycle::cuda
