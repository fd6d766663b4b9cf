#include "parallel/serve/cost_model.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace upcycle {
namespace {

double number(std::int64_t n) { return static_cast<double>(n); }

// What products multiply with, in elements. A tied embedding is the head.
struct Elements {
  double per_row = 0, head = 0, experts = 0;
};

Elements elements_of(const ParamTable& table, bool tied) {
  Elements e;
  for (const ParamRow& row : table.rows) {
    if (row.is_vector) continue;
    const double size = number(row.size());
    if (row.group == ParamGroup::Expert)
      e.experts += size;
    else if (row.role == (tied ? ParamRole::Embedding : ParamRole::Head))
      e.head += size;
    else if (row.role != ParamRole::Embedding)
      e.per_row += size;
  }
  return e;
}

}  // namespace

std::vector<double> expert_shares(std::span<const std::int64_t> tokens, std::int64_t k) {
  double all = 0;
  for (const std::int64_t n : tokens) all += number(n);
  std::vector<double> shares;
  for (const std::int64_t n : tokens) shares.push_back(all > 0 ? number(n) * number(k) / all : 0);
  return shares;
}

CostModel::CostModel(const ModelConfig& model, const Layout& layout, DType dtype, const Machine& machine,
                     std::vector<double> expert_share)
    : machine_(machine),
      layout_(layout),
      sizes_(sizes_of(model, layout, {})),
      rate_(machine.product_rate(dtype)),
      size_(number(static_cast<std::int64_t>(size_of(dtype)))),
      expert_share_(std::move(expert_share)) {
  for (std::int64_t l = 0; l < sizes_.L; ++l) moe_layers_ += model.is_moe_layer(l);
  norms_over_tp_ = model.qk_norm == "full";
  const ParamTable table = make_param_table(model, layout, {});
  const Elements mine = elements_of(table, model.tie_word_embeddings);
  per_row_ = mine.per_row, head_ = mine.head, experts_ = mine.experts;
  cache_row_bytes_ = 2 * number(sizes_.L * sizes_.K_local * sizes_.D) * size_;
  const Elements all = elements_of(make_global_table(model), model.tie_word_embeddings);
  model_dense_bytes_ = (all.per_row + all.head) * size_;
  model_expert_bytes_ = all.experts * size_;
  if (expert_share_.empty() && sizes_.E > 0)
    expert_share_.assign(static_cast<std::size_t>(sizes_.E), number(sizes_.k) / number(sizes_.E));
  UPCYCLE_CHECK(static_cast<std::int64_t>(expert_share_.size()) == sizes_.E, "{} experts' shares, the model has {}",
                expert_share_.size(), sizes_.E);
}

std::int64_t CostModel::assignments(std::int64_t rows) const { return rows * sizes_.k * moe_layers_; }

// Each token chooses independently: an expert is left out by all of them with probability (1 - share)^rows.
double CostModel::distinct_experts(double rows) const {
  double distinct = 0;
  for (const double share : expert_share_) distinct += 1 - std::pow(1 - share, rows);
  return distinct;
}

double CostModel::transfer(double bytes) const { return machine_.link_latency + bytes / machine_.link_rate; }

StepCost CostModel::cost(std::span<const std::span<const ScheduledRows>> replicas) const {
  const Machine& m = machine_;
  double all_rows = 0, most_rows = 0, most_drawn = 0;
  StepCost c;
  for (const std::span<const ScheduledRows> plan : replicas) {
    double rows = 0, drawn = 0, attention = 0;
    for (const ScheduledRows& part : plan) {
      rows += number(part.rows);
      drawn += part.samples;
      // Causal: row i of the part sees the `begin` keys before it, and i + 1 of the part's own. Two products of the
      // head size per pair; the keys and values are read once.
      const double keys = number(part.begin + part.rows);
      const double pairs = number(part.rows) * (number(part.begin) + number(part.rows + 1) / 2);
      const double flops = 4 * pairs * number(sizes_.N_local * sizes_.D * sizes_.L);
      attention += keys * cache_row_bytes_ / m.memory_rate + flops / (rate_ * m.attention_efficiency);
    }
    const auto product = [&](double elements, double n) {
      return n > 0 ? elements * size_ / m.memory_rate + 2 * elements * n / rate_ : 0;
    };
    all_rows += rows;
    most_rows = std::max(most_rows, rows);
    most_drawn = std::max(most_drawn, drawn);
    c.products = std::max(c.products, product(per_row_, rows) + product(head_, drawn));
    c.attention = std::max(c.attention, attention);
  }
  if (all_rows == 0) return {};
  c.host = m.host_step_time + m.host_token_time * most_drawn;
  c.layers = m.layer_time * number(sizes_.L) + number(moe_layers_) * (m.moe_layer_time + m.moe_row_time * most_rows);
  c.weight_bytes = model_dense_bytes_ * layout_.dp;
  const double row_bytes = number(sizes_.H) * size_;
  std::int64_t all_reduces = layout_.tp > 1 ? 2 * sizes_.L : 0;
  if (moe_layers_ > 0) {
    // Experts get the same tokens on average; those of a rank's edp copies are its own.
    const double E = number(sizes_.E), copies = layout_.edp;
    const double touched = distinct_experts(all_rows / copies);
    const double rows_per_expert = all_rows / copies * number(sizes_.k) / E;
    c.experts =
        experts_ * touched / E * size_ / m.memory_rate + 2 * experts_ * rows_per_expert / (rate_ * m.expert_efficiency);
    c.experts_touched = touched * copies * number(moe_layers_);
    c.weight_bytes += model_expert_bytes_ * c.experts_touched / (E * number(moe_layers_));
    // With etp = 1 the ranks of tp send a part of the tokens each, and their results are whole.
    const bool cut = layout_.etp == layout_.tp;
    if (!cut) all_reduces -= moe_layers_;
    if (layout_.ep > 1) {  // to the experts and back
      const double sent =
          most_rows / (cut ? 1 : layout_.tp) * number(sizes_.k) * row_bytes * (layout_.ep - 1) / layout_.ep;
      c.transfers += 2 * number(moe_layers_) * transfer(sent);
    }
  }
  const double share = 2 * (layout_.tp - 1.0) / layout_.tp;  // of the bytes, that an all-reduce sends
  c.transfers += number(all_reduces) * transfer(share * most_rows * row_bytes);
  if (norms_over_tp_ && layout_.tp > 1)  // a sum of squares of the queries and one of the keys for each row
    c.transfers += number(sizes_.L) * transfer(share * most_rows * 2 * sizeof(float));
  return c;
}

}  // namespace upcycle
