#pragma once
#include <memory>

#include "kernels/ops.h"

namespace upcycle {

class GemmCache;
enum class CpuIsa : std::uint8_t;

// The CPU implementation: GEMM by oneDNN but for few rows (thin_matmul.h), the rest hand-written, threads by OpenMP.
// One op per file in this folder.
class CpuOps : public Ops {
 public:
  CpuOps();
  ~CpuOps() override;

  std::size_t workspace_bytes(const OpLimits& limits) const override { return most_workspace(limits); }
  static std::size_t most_workspace(const OpLimits& limits);  // the same without an instance, for plans
  void prepare(const OpLimits& limits) override;
  // Each op and, for those with scratch, the bytes that one call within the limits needs.
#define UPCYCLE_OP(name, ...) void name(__VA_ARGS__) override;
#define UPCYCLE_OP_WITH_SCRATCH(name, ...) \
  void name(__VA_ARGS__) override;         \
  static std::size_t name##_workspace(const OpLimits& limits);
#include "kernels/ops.inc"

  std::size_t matmul_primitives() const;  // created so far; a training step after prepare adds none

 private:
  std::unique_ptr<GemmCache> gemms_;  // oneDNN primitives by shape
  CpuIsa isa_;
};

std::unique_ptr<Ops> make_cpu_ops();

}  // namespace upcycle
