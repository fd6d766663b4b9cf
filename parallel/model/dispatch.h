#pragma once
#include <vector>

#include "parallel/model/activations.h"

// Moving assignments to the ranks that hold their experts and back, dropless (arXiv 2211.15841; expert parallelism as
// in arXiv 2006.16668). Two layouts of the same rows:
//   slots        one row an assignment, on the rank that has the token, sorted by global expert; Ops::sort_by_expert's
//                `source` and `slot` lead from tokens to them and back.
//   expert rows  on the rank that has the expert: a segment a local expert, each padded to kExpertRowAlign.
// With ep = 1 the two are one buffer. to_experts and from_experts are each other's inverse and transpose, so the
// forward's way out is the backward's way back.
namespace upcycle {

struct Transformer;

// How the rows of one layer travel, for its newest routing.
struct DispatchPlan {
  std::int64_t slot_rows = 0;                          // rows of the slot layout in use
  std::vector<std::int64_t> send_counts, recv_counts;  // (ep) rows to and from each rank
  std::vector<std::int64_t> offsets;                   // (E_local + 1) segments of the expert rows
  std::int64_t rounds = 1;  // more where a rank would receive more rows than its buffer holds: see plan_dispatch
};
DispatchPlan make_plan(const Sizes& sizes, int ep);

// Sorts the assignments `experts` (tokens, k) and agrees with the ep group on who sends what; fills the layer's counts,
// source, slot and maps. The one small exchange, and copy to the host, of a layer.
// Where some rank would receive more than moe_buffers().received rows, every rank comes to the same plan.rounds > 1 and
// nothing is laid out: the caller cuts its tokens in so many equal parts, each of which is sure to fit, and plans each.
void plan_dispatch(Transformer& m, std::int64_t layer, const Tensor& experts, DispatchPlan& plan);
// The same for one of the layer's rounds, whose number stays as it is.
void plan_round(Transformer& m, std::int64_t layer, const Tensor& experts);

// Slots (slot_rows, H) -> expert rows (offsets.back(), H), padding rows zero. Returns `slots` itself when ep = 1.
Tensor to_experts(Transformer& m, std::int64_t layer, const DispatchPlan& plan, const Tensor& rows,
                  const Tensor& slots);
// And back. Returns `rows` itself when ep = 1.
Tensor from_experts(Transformer& m, std::int64_t layer, const DispatchPlan& plan, const Tensor& slots,
                    const Tensor& rows);

}  // namespace upcycle
