#include "parallel/train/gradient_slots.h"

#include <algorithm>

namespace upcycle {
namespace {

std::int64_t elements(const Bucket* b) { return b == nullptr ? 0 : b->end - b->begin; }

// What one part needs.
struct Part {
  const Bucket *dense = nullptr, *expert = nullptr;  // null: none, or its gradients lie elsewhere
  std::int64_t size() const { return elements(dense) + elements(expert); }
};

// By Bucket::layer + 1.
std::vector<Part> parts_of(const ParamTable& table, const SlotNeeds& needs) {
  std::vector<Part> parts(table.dense.buckets.size());  // every part has dense parameters
  for (const Bucket& b : table.dense.buckets)
    if (needs.dense) parts[static_cast<std::size_t>(b.layer + 1)].dense = &b;
  for (const Bucket& b : table.expert.buckets)
    if (needs.expert) parts[static_cast<std::size_t>(b.layer + 1)].expert = &b;
  return parts;
}

}  // namespace

GradientSlots take_slots(Arena& arena, const ParamTable& table, const SlotNeeds& needs) {
  GradientSlots slots;
  const std::vector<Part> parts = parts_of(table, needs);
  slots.tied = table.find(ParamRole::Head) == nullptr;
  const std::size_t first = slots.tied ? 1 : 0;  // the last part of those that take turns
  const std::int64_t lasting = slots.tied ? parts[0].size() : 0;
  const bool travel = (needs.dense && table.dense.ranks > 1) || (needs.expert && table.expert.ranks > 1);
  std::int64_t turns = 0;
  for (std::size_t i = first; i < parts.size(); ++i)
    turns = std::max(turns, parts[i].size() + (travel && i > first ? parts[i - 1].size() : 0));
  if (needs.dense) slots.dense.resize(parts.size());
  if (needs.expert) slots.expert.resize(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::int64_t begin = 0;
    if (i >= first) begin = lasting + (travel && i % 2 == 1 ? turns - parts[i].size() : 0);
    if (needs.dense) slots.dense[i] = begin;
    if (needs.expert) slots.expert[i] = begin + elements(parts[i].dense);
  }
  slots.size = lasting + turns;
  if (slots.size > 0) slots.memory = arena.take(DType::F32, {slots.size});
  return slots;
}

Tensor GradientSlots::of(ParamGroup g, const Bucket& bucket) const {
  const std::int64_t begin = of_group(g)[static_cast<std::size_t>(bucket.layer + 1)];
  return memory.slice_rows(begin, begin + bucket.end - bucket.begin);
}

}  // namespace upcycle
