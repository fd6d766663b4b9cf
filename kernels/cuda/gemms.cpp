#include "kernels/cuda/gemms.h"

#include <bit>

#include "core/check.h"
#include "core/cuda_error.h"

namespace upcycle::cuda {
namespace {

cudaDataType native_type(DType t) { return t == DType::F32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

std::uint32_t Gemms::alignment_of(std::initializer_list<const void*> operands) {
  std::uintptr_t all = kBestAlignment;
  for (const void* p : operands) all |= reinterpret_cast<std::uintptr_t>(p);
  return 1u << std::countr_zero(all);
}

Gemms::Gemms() { UPCYCLE_CUBLASLT(cublasLtCreate(&handle_)); }
Gemms::~Gemms() { cublasLtDestroy(handle_); }

std::size_t Gemms::Hash::operator()(const Key& key) const {
  const GemmShape& s = key.shape;
  std::size_t h = key.alignment + key.workspace_bytes;
  const auto mix = [&h](std::int64_t x) {
    h = (h ^ static_cast<std::size_t>(x)) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 29;
  };
  mix((static_cast<std::int64_t>(s.kind) << 24) | (static_cast<std::int64_t>(s.store) << 16) |
      (static_cast<std::int64_t>(s.ab) << 8) | static_cast<std::int64_t>(s.c));
  for (const std::int64_t x : {s.m, s.n, s.k, s.lda, s.ldb, s.ldc}) mix(x);
  return h;
}

// A row-major matrix is its transpose in column-major order, so C^T = op(B)^T op(A)^T: B is the first factor, A the
// second.
Gemms::Plan& Gemms::plan(const Key& key) {
  const auto [at, fresh] = plans_.try_emplace(key);
  Plan& p = at->second;
  if (!fresh) return p;
  const GemmShape& s = key.shape;
  try {
    // COMPUTE_32F: fp32 factors are multiplied as fp32, never as TF32.
    UPCYCLE_CUBLASLT(cublasLtMatmulDescInit(&p.op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t first = s.kind == MatmulKind::NT ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s.kind == MatmulKind::TN ? CUBLAS_OP_T : CUBLAS_OP_N;
    UPCYCLE_CUBLASLT(cublasLtMatmulDescSetAttribute(&p.op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    UPCYCLE_CUBLASLT(cublasLtMatmulDescSetAttribute(&p.op, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    const auto layout = [](cublasLtMatrixLayoutOpaque_t& l, DType type, std::int64_t rows, std::int64_t columns,
                           std::int64_t ld) {
      UPCYCLE_CUBLASLT(cublasLtMatrixLayoutInit(&l, native_type(type), static_cast<std::uint64_t>(rows),
                                                static_cast<std::uint64_t>(columns), ld));
    };
    const bool nt = s.kind == MatmulKind::NT, tn = s.kind == MatmulKind::TN;
    layout(p.first, s.ab, nt ? s.k : s.n, nt ? s.n : s.k, s.ldb);
    layout(p.second, s.ab, tn ? s.m : s.k, tn ? s.k : s.m, s.lda);
    layout(p.result, s.c, s.n, s.m, s.ldc);

    cublasLtMatmulPreferenceOpaque_t preference;
    UPCYCLE_CUBLASLT(cublasLtMatmulPreferenceInit(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      UPCYCLE_CUBLASLT(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{key.workspace_bytes});
    // If k is split, parts are added in fp32, in a separate pass: not in bf16, and not in order of arrival.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(operand, key.alignment);

    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    UPCYCLE_CUBLASLT(cublasLtMatmulAlgoGetHeuristic(handle_, &p.op, &p.first, &p.second, &p.result, &p.result,
                                                    &preference, 1, &best, &found));
    UPCYCLE_CHECK(found == 1 && best.state == CUBLAS_STATUS_SUCCESS,
                  "cuBLASLt has no algorithm for m {} n {} k {}, {} -> {}", s.m, s.n, s.k, name_of(s.ab), name_of(s.c));
    p.algorithm = best.algo;
    p.workspace_bytes = best.workspaceSize;
  } catch (...) {
    plans_.erase(at);
    throw;
  }
  return p;
}

void Gemms::run(cudaStream_t stream, void* workspace, const Key& key, void* c, const void* a, const void* b) {
  Plan& p = plan(key);
  const float one = 1.0f, keep = key.shape.store == Store::Accumulate ? 1.0f : 0.0f;
  UPCYCLE_CUBLASLT(cublasLtMatmul(handle_, &p.op, &one, b, &p.first, a, &p.second, &keep, c, &p.result, c, &p.result,
                                  &p.algorithm, workspace, p.workspace_bytes, stream));
}

Lanes::Lanes() : streams_(kExpertLanes - 1), joined_(kExpertLanes - 1) {
  for (cudaStream_t& s : streams_) UPCYCLE_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  for (cudaEvent_t& e : joined_) UPCYCLE_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
  UPCYCLE_CUDA(cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming));
}

Lanes::~Lanes() {
  for (cudaStream_t s : streams_) {
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
  }
  for (cudaEvent_t e : joined_) cudaEventDestroy(e);
  cudaEventDestroy(forked_);
}

void Lanes::fork(cudaStream_t main, int count) {
  if (count < 2) return;
  UPCYCLE_CUDA(cudaEventRecord(forked_, main));
  for (int lane = 1; lane < count; ++lane) UPCYCLE_CUDA(cudaStreamWaitEvent(stream(main, lane), forked_, 0));
}

void Lanes::join(cudaStream_t main, int count) {
  for (int lane = 1; lane < count; ++lane) {
    const cudaEvent_t joined = joined_[static_cast<std::size_t>(lane - 1)];
    UPCYCLE_CUDA(cudaEventRecord(joined, stream(main, lane)));
    UPCYCLE_CUDA(cudaStreamWaitEvent(main, joined, 0));
  }
}

}  // namespace upcycle::cuda
