#include "kernels/dry/traced_ops.h"

#include <array>

#include "core/trace.h"
#include "kernels/dry/dry_ops.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

double bytes_of(const Tensor& t) { return t.data != nullptr ? static_cast<double>(t.bytes()) : 0; }
double bytes_of(const UpdateTensors& u) {
  return bytes_of(u.param) + (u.master.data != u.param.data ? bytes_of(u.master) : 0) + bytes_of(u.m) + bytes_of(u.v) +
         bytes_of(u.grad);
}
template <class T>
double bytes_of(const T&) {  // sizes, scratch and what is not known on the host
  return 0;
}

// A table's rows, of which the op touches one for each token.
double rows_of(const Tensor& table, const Tensor& tokens) {
  return static_cast<double>(tokens.size() * table.columns()) * static_cast<double>(size_of(table.dtype));
}
WorkCost cost_of_embedding(const Tensor& out, const Tensor& table, const Tensor& tokens) {
  return {0, bytes_of(out) + rows_of(table, tokens) + bytes_of(tokens)};
}

class TracedBase : public Ops {
 public:
  explicit TracedBase(std::shared_ptr<Ops> ops)
      : ops_(std::move(ops)), counts_(make_dry_ops(count_, [](const OpLimits&) { return std::size_t{0}; })) {}
  std::size_t workspace_bytes(const OpLimits& limits) const override { return ops_->workspace_bytes(limits); }
  void prepare(const OpLimits& limits) override { ops_->prepare(limits); }

 protected:
  template <class Call, class... A>
  void traced(Stream& stream, const char* name, Call call, const A&... a) {
    if (trace_sink() == nullptr) return call(*ops_);
    count_ = {};
    call(*counts_);
    as_work(stream, name, {count_.flops, (bytes_of(a) + ... + 0)}, call);
  }
  template <class Call>
  void as_work(Stream& stream, const char* name, const WorkCost& cost, Call call) {
    const TraceRange range(name, cost);
    const TraceWork work(stream, name, cost);
    call(*ops_);
  }

 private:
  std::shared_ptr<Ops> ops_;
  OpCount count_;
  std::unique_ptr<Ops> counts_;
};

// For each op a class that overrides it, whatever its arguments; TracedOps is all of them.
#define UPCYCLE_OP(name, ...)                                                     \
  template <class Signature>                                                      \
  class Traced_##name;                                                            \
  template <class... A>                                                           \
  class Traced_##name<void (Ops::*)(Stream&, A...)> : public virtual TracedBase { \
   public:                                                                        \
    void name(Stream& stream, A... a) override {                                  \
      traced(                                                                     \
          stream, #name, [&](Ops& ops) { ops.name(stream, a...); }, a...);        \
    }                                                                             \
  };
#include "kernels/ops.inc"

class TracedOps final : public virtual TracedBase
#define UPCYCLE_OP(name, ...) , public Traced_##name<decltype(&Ops::name)>
#include "kernels/ops.inc"
{
 public:
  explicit TracedOps(std::shared_ptr<Ops> ops) : TracedBase(std::move(ops)) {}

  // Dry ops write its counts.
  void sort_by_expert(Stream& stream, Workspace w, const Tensor& counts, const Tensor& source, const Tensor& slot,
                      const Tensor& experts, std::int64_t align) override {
    const double bytes = bytes_of(counts) + bytes_of(source) + bytes_of(slot) + bytes_of(experts);
    as_work(stream, "sort_by_expert", {0, bytes},
            [&](Ops& ops) { ops.sort_by_expert(stream, w, counts, source, slot, experts, align); });
  }
  void embedding_forward(Stream& stream, const Tensor& out, const Tensor& table, const Tensor& tokens,
                         std::int64_t begin) override {
    as_work(stream, "embedding_forward", cost_of_embedding(out, table, tokens),
            [&](Ops& ops) { ops.embedding_forward(stream, out, table, tokens, begin); });
  }
  void embedding_backward(Stream& stream, Workspace w, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                          std::int64_t begin) override {
    as_work(stream, "embedding_backward", cost_of_embedding(dout, dtable, tokens),
            [&](Ops& ops) { ops.embedding_backward(stream, w, dtable, dout, tokens, begin); });
  }
};

}  // namespace

std::unique_ptr<Ops> make_traced_ops(std::shared_ptr<Ops> ops) { return std::make_unique<TracedOps>(std::move(ops)); }

}  // namespace upcycle
