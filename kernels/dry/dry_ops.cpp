#include "kernels/dry/dry_ops.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

double number(std::int64_t n) { return static_cast<double>(n); }

// Overrides every op with one that does nothing.
class NoOps : public Ops {
 public:
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define UPCYCLE_OP(name, ...) \
  void name(__VA_ARGS__) override {}
#include "kernels/ops.inc"
#pragma GCC diagnostic pop
};

// Overrides the ops that are counted; the others do nothing.
class DryOps final : public NoOps {
 public:
  DryOps(OpCount& count, WorkspaceBytes workspace_bytes)
      : count_(count), workspace_bytes_(std::move(workspace_bytes)) {}

  std::size_t workspace_bytes(const OpLimits& limits) const override { return workspace_bytes_(limits); }
  void prepare(const OpLimits&) override {}

  void matmul(Stream&, Workspace, MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b, Store) override {
    const std::int64_t k = kind == MatmulKind::TN ? a.shape[0] : a.shape[1];
    count(2 * number(c.shape[0]) * number(c.shape[1]) * number(k), {&c, &a, &b});
  }
  // Every kind multiplies each row of A (R, .) once by a matrix with as many columns as C.
  void grouped_matmul(Stream&, Workspace, MatmulKind, const Tensor& c, const Tensor& a, const Tensor& b,
                      std::span<const std::int64_t> offsets, Store, std::int64_t) override {
    const std::int64_t columns = c.shape[static_cast<std::size_t>(c.rank - 1)];
    count(2 * number(offsets.back()) * number(a.shape[1]) * number(columns), {&c, &a, &b});
  }

  void attention_forward(Stream&, Workspace, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                         const Tensor& v, std::int64_t, const PackedSequences& q_sequences,
                         const PackedSequences& k_sequences, float) override {
    count(2 * causal_products(q, q_sequences, k_sequences), {&out, &lse, &q, &k, &v});
  }
  // Recomputes the scores, then four products: dv, dp, dq, dk.
  void attention_backward(Stream&, Workspace, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                          const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                          std::int64_t, const PackedSequences& q_sequences, const PackedSequences& k_sequences,
                          float) override {
    count(5 * causal_products(q, q_sequences, k_sequences), {&dq, &dk, &dv, &dout, &q, &k, &v, &out, &lse});
  }

  // The host knows only the largest sizes: exact where all sequences are alike, else an upper bound.
  void paged_attention(Stream&, Workspace, const Tensor& out, const Tensor& q, const PagedCache& cache,
                       const PagedSequences& sequences, float) override {
    const double keys = number(sequences.most_keys), per_key = number(cache.k.shape[1] * cache.k.shape[3]);
    const double rows = std::min(number(q.shape[0]), number(sequences.count * sequences.most_rows));
    count(4 * rows * (keys - number(sequences.most_rows) / 2) * number(q.shape[1]), {&out, &q});
    count_.memory_bytes += 2 * number(sequences.count) * keys * per_key * static_cast<double>(size_of(cache.k.dtype));
  }

  void linear_xent_stats(Stream&, Workspace, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor&,
                         std::int64_t, std::int64_t vocab_valid) override {
    count_head(logits(x, vocab_valid), {&stats, &x, &weight});
  }
  // Recomputes the logits, then dx and dweight.
  void linear_xent_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& x,
                            const Tensor& weight, const Tensor&, const Tensor&, std::int64_t, std::int64_t vocab_valid,
                            float) override {
    count_head(3 * logits(x, vocab_valid), {&dx, &dweight, &x, &weight});
  }

  void sort_by_expert(Stream&, Workspace, const Tensor& counts, const Tensor& source, const Tensor&,
                      const Tensor& experts, std::int64_t align) override {
    const std::int64_t n = experts.size(), E = counts.size();
    std::int64_t rows = 0;
    for (std::int64_t e = 0; e < E; ++e) {
      const std::int64_t here = n / E + (e < n % E ? 1 : 0);
      counts.as<std::int32_t>()[e] = static_cast<std::int32_t>(here);
      rows += (here + align - 1) / align * align;
    }
    UPCYCLE_CHECK(rows <= source.size(), "sort_by_expert: {} rows needed, source has {}", rows, source.size());
  }

 private:
  void count(double flops, std::initializer_list<const Tensor*> operands) {
    count_.flops += flops;
    for (const Tensor* t : operands) count_.memory_bytes += static_cast<double>(t->bytes());
  }
  void count_head(double flops, std::initializer_list<const Tensor*> operands) {
    count_.head_flops += flops;
    count(flops, operands);
  }
  // FLOPs of one product (rows of q) x (rows of k) x D over all heads, of which the causal mask leaves half; a short q
  // that continues a longer k sees all keys before it too.
  static double causal_products(const Tensor& q, const PackedSequences& q_sequences,
                                const PackedSequences& k_sequences) {
    const double keys = number(k_sequences.longest) - number(q_sequences.longest) / 2;
    return 2 * number(q.shape[0]) * keys * number(q.shape[1]);
  }
  static double logits(const Tensor& x, std::int64_t vocab_valid) {
    return 2 * number(x.shape[0]) * number(x.shape[1]) * number(vocab_valid);
  }

  OpCount& count_;
  WorkspaceBytes workspace_bytes_;
};

}  // namespace

std::unique_ptr<Ops> make_dry_ops(OpCount& count, WorkspaceBytes workspace_bytes) {
  return std::make_unique<DryOps>(count, std::move(workspace_bytes));
}

}  // namespace upcycle
