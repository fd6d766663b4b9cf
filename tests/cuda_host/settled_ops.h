#pragma once
#include <memory>
#include <utility>

#include "core/device.h"
#include "kernels/ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"

namespace upcycle::testing {

// The ops for tests that look at device memory on the host: memory is open to the test, closed to the op's own host
// code (under UPCYCLE_EMUL_GUARD), and when a call returns its work is done, in whatever order its streams ran.
struct SettledBase : Ops {
  std::unique_ptr<Ops> ops;
};

// SettledOp_<name> overrides one op.
#define UPCYCLE_OP(name, ...)                                                           \
  template <class Op>                                                                   \
  struct SettledOp_##name;                                                              \
  template <class... Arguments>                                                         \
  struct SettledOp_##name<void (Ops::*)(Stream&, Arguments...)> : virtual SettledBase { \
    void name(Stream& stream, Arguments... arguments) override {                        \
      {                                                                                 \
        const emul::HostCode closed;                                                    \
        ops->name(stream, arguments...);                                                \
      }                                                                                 \
      stream.synchronize();                                                             \
    }                                                                                   \
  };
#include "kernels/ops.inc"

struct SettledOps final :
#define UPCYCLE_OP(name, ...) SettledOp_##name<decltype(&Ops::name)>,
#include "kernels/ops.inc"
    virtual SettledBase {
  explicit SettledOps(std::unique_ptr<Ops> of) { ops = std::move(of); }

  std::size_t workspace_bytes(const OpLimits& limits) const override { return ops->workspace_bytes(limits); }
  void prepare(const OpLimits& limits) override {
    const emul::HostCode closed;
    ops->prepare(limits);
  }
};

}  // namespace upcycle::testing
