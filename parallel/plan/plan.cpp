#include "parallel/plan/plan.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/error.h"
#include "kernels/dry/dry_device.h"
#include "kernels/dry/dry_ops.h"
#include "kernels/ops.h"
#include "parallel/comm/comm_dry.h"
#include "parallel/model/transformer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/upcycle/from_checkpoint.h"

namespace upcycle {
namespace {

// One rank of a run, laid out as make_trainer lays it out.
struct DryRank {
  CollectiveTable collectives;
  OpCount work;
  DryDevice device;
  std::unique_ptr<Stream> stream = device.make_stream();
  std::unique_ptr<Ops> ops;
  Mesh mesh;
  Trainer trainer;

  DryRank(const PlannedRun& run, const Layout& layout, int rank)
      : ops(make_dry_ops(work, run.workspace_bytes)),
        mesh(make_dry_mesh(layout, rank, collectives)),
        trainer(make_trainer(run.config, mesh, device, *stream, *ops)) {}
};

// One step's collectives and work. A step of n microbatches is n - 1 that are not the last, all alike, and the last
// one: two dry steps give their sizes, and a step of hundreds of microbatches need not be walked.
struct StepCount {
  CollectiveTable collectives;
  OpCount work;
};

StepCount dry_step(PlannedRun run, const Layout& layout, int rank, std::int64_t micro_batches) {
  Config& c = run.config;
  c.train.global_batch_size = c.train.micro_batch_size * layout.dp * micro_batches;
  c.train.rampup_batch_size.clear();  // a step of the whole batch
  c.train.check_replicas_every = 0;   // it reads what is not there
  c.debug = {};
  c.parallel.imbalance_factor = layout.ep;  // routing is even but for a remainder, which must not cause rounds
  DryRank r(run, layout, rank);
  const std::int32_t token = c.data.eod_token_id == 0 ? 1 : 0;  // each sequence is one document: the most attention
  (void)train_step(r.trainer, [token](std::int64_t, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    std::fill(tokens.begin(), tokens.end(), token);
    std::fill(targets.begin(), targets.end(), 0);
  });
  return {r.collectives, r.work};
}

StepCount count_step(const PlannedRun& run, const Layout& layout, int rank, std::int64_t micro_batches) {
  StepCount step = dry_step(run, layout, rank, 1);
  if (micro_batches == 1) return step;
  const StepCount two = dry_step(run, layout, rank, 2);
  const auto more = static_cast<std::uint64_t>(micro_batches - 1);
  UPCYCLE_CHECK(step.collectives.counts.size() == two.collectives.counts.size(),
                "a step of two microbatches calls {} collectives, one of one {}", two.collectives.counts.size(),
                step.collectives.counts.size());
  for (CollectiveCount& c : step.collectives.counts) {
    const auto at = std::find_if(two.collectives.counts.begin(), two.collectives.counts.end(),
                                 [&](const CollectiveCount& d) { return c.group == d.group && c.op == d.op; });
    UPCYCLE_CHECK(at != two.collectives.counts.end(), "{} {} only in a step of one microbatch", c.group, c.op);
    c.calls += more * (at->calls - c.calls);
    c.bytes += more * (at->bytes - c.bytes);
  }
  step.work.flops += static_cast<double>(more) * (two.work.flops - step.work.flops);
  step.work.head_flops += static_cast<double>(more) * (two.work.head_flops - step.work.head_flops);
  step.work.memory_bytes += static_cast<double>(more) * (two.work.memory_bytes - step.work.memory_bytes);
  return step;
}

bool is_dispatch(const CollectiveCount& c) { return c.group == "ep" && c.op == "all_to_all_v"; }

std::uint64_t dispatched(const StepCount& step) {
  const auto& counts = step.collectives.counts;
  const auto at = std::find_if(counts.begin(), counts.end(), is_dispatch);
  return at == counts.end() ? 0 : at->bytes;
}

// Ranks differ in two ways. By their place in tp: the output projection, where the last ones hold the vocabulary's
// padding. All else by their place in ep: the remainder of the assignments goes to the first experts, so the first
// place has the most and the last the fewest; if these are equal, all are. The sums are of whole numbers: exact below
// 2^53.
void count_all_ranks(Plan& plan, const PlannedRun& run) {
  const int ep = plan.layout.ep;
  const auto step_of = [&](int place) {
    return count_step(run, plan.layout, place * plan.layout.etp, plan.micro_batches);
  };
  const StepCount first = step_of(0), last = ep > 1 ? step_of(ep - 1) : first;
  const auto without_head = [](const StepCount& step) { return step.work.flops - step.work.head_flops; };
  const bool even = dispatched(first) == dispatched(last) && without_head(first) == without_head(last);
  for (int place = 0; place < ep; ++place) {
    const StepCount step = even || place == 0 ? first : place == ep - 1 ? last : step_of(place);
    const int ranks = plan.layout.world / ep;
    plan.dispatch_total += static_cast<std::uint64_t>(ranks) * dispatched(step);
    plan.flops_total += ranks * without_head(step);
  }
  // Rank 0 is the first of tp and always has words; one tp group has all V of them.
  const Sizes sizes = sizes_of(run.config.model, plan.layout, Coordinates{});
  plan.flops_total +=
      plan.layout.dp * (first.work.head_flops / static_cast<double>(sizes.V_valid) * static_cast<double>(sizes.V));
}

void count_collectives(Plan& plan, const PlannedRun& run) {
  const StepCount step = count_step(run, plan.layout, plan.rank, plan.micro_batches);
  for (const CollectiveCount& c : step.collectives.counts) {
    if (is_dispatch(c)) {
      plan.dispatch = c;
    } else {
      plan.fixed.push_back(c);
    }
  }
  plan.flops = step.work.flops;
  plan.memory_bytes = step.work.memory_bytes;
  count_all_ranks(plan, run);
}

std::size_t sum(const std::vector<MemoryClass>& classes) {
  return std::accumulate(classes.begin(), classes.end(), std::size_t{0},
                         [](std::size_t n, const MemoryClass& c) { return n + (c.beside_gpu ? 0 : c.bytes); });
}

// At the start of a run from init.upcycle: the dense slices are in the gradients, or beside them if they are larger,
// while the logits are computed; then the MoE's logits.
std::size_t start_bytes(DryRank& r, const ModelConfig& dense) {
  Trainer& t = r.trainer;
  const std::vector<std::int32_t> probe(
      static_cast<std::size_t>(probe_length(t.config.train.seq_length, r.mesh.layout.tp)));
  {
    IdleMemory idle = idle_gradients(t);
    Arena own("dense probe");
    const FlatPair slices = dense_slices(t, dense, idle, own);
    (void)probe_logits(t, dense, slices, idle, probe);
  }
  (void)probe_logits(t, t.config.model, t.memory.weights, idle_gradients(t), probe);
  return r.device.peak() + (t.config.device == "cuda" ? 0 : collective_scratch_bytes(r.mesh.layout));
}

}  // namespace

std::string layout_problem(const PlannedRun& run, const Layout& layout) {
  try {
    if (run.dense) (void)sizes_of(*run.dense, layout, Coordinates{});
    (void)sizes_of(run.config.model, layout, Coordinates{});
    (void)DryRank(run, layout, 0);
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

Layout check_layout(const PlannedRun& run, int world) {
  const ParallelConfig& p = run.config.parallel;
  return make_layout(
      world, p.tp, p.ep, p.etp,
      {[&](const Layout& layout) { return layout_problem(run, layout); }, "this model and batch",
       fmt::format("train.global_batch_size ({}) or the number of ranks", run.config.train.global_batch_size)});
}

std::vector<MemoryClass> conversion_memory(const std::vector<MemoryClass>& dense, const std::vector<MemoryClass>& moe) {
  std::vector<MemoryClass> classes;
  const auto add = [&](const MemoryClass& c) {
    const auto same = [&](const MemoryClass& have) { return have.name == c.name; };
    const auto at = std::find_if(classes.begin(), classes.end(), same);
    if (at == classes.end()) {
      classes.push_back(c);
    } else if (c.name == "collectives" || c.name == "CUDA and NCCL (estimate)") {  // per process, not per trainer
      at->bytes = std::max(at->bytes, c.bytes);
    } else {
      at->bytes += c.bytes;
    }
  };
  for (const auto* trainer : {&dense, &moe})
    for (const MemoryClass& c : *trainer)
      if (c.name != "checkpoint snapshot") add(c);
  add({"exchange buffers", 2 * static_cast<std::size_t>(kLiveBufferElements) * sizeof(float)});
  return classes;
}

std::size_t Plan::training_bytes() const { return sum(memory); }
std::size_t Plan::host_bytes(bool cuda) const {
  if (!cuda) return peak_bytes();
  return std::accumulate(memory.begin(), memory.end(), std::size_t{0},
                         [](std::size_t n, const MemoryClass& c) { return n + (c.beside_gpu ? c.bytes : 0); });
}
std::size_t Plan::peak_bytes() const { return std::max(training_bytes(), upcycling_bytes); }

Plan make_plan(const PlannedRun& run, int world, int rank) {
  if (world < 1) input_error("command line: --world: found {}, expected at least 1", world);
  if (rank < 0 || rank >= world)
    input_error("command line: --rank: found {}, expected 0 to {}, as --world={}", rank, world - 1, world);
  return make_plan(run, check_layout(run, world), rank);
}

Plan make_plan(const PlannedRun& run, const Layout& layout, int rank) {
  const Config& c = run.config;
  Plan plan;
  plan.layout = layout;
  plan.rank = rank;
  plan.at = coordinates_of(plan.layout, rank);
  plan.parameters = count_parameters(c.model);
  plan.tokens = c.train.global_batch_size * c.train.seq_length;
  plan.micro_batches = c.train.global_batch_size / (c.train.micro_batch_size * plan.layout.dp);

  DryRank r(run, plan.layout, rank);
  plan.memory = plan_trainer(c, r.mesh, *r.ops);
  if (run.dense && c.upcycle.at_step >= 0) {
    Config dense = c;
    dense.model = *run.dense;
    plan.upcycling_bytes = sum(conversion_memory(plan_trainer(dense, r.mesh, *r.ops), plan.memory));
    plan.live = plan_live(*run.dense, c, plan.layout, rank);
  } else if (run.dense) {
    plan.upcycling_bytes = start_bytes(r, *run.dense);
  }
  count_collectives(plan, run);
  plan.recomputed_bytes = static_cast<std::size_t>(plan.micro_batches) * r.trainer.model->activations.recomputed_bytes;
  if (offloads(c)) plan.offload = plan_offload(r.trainer.optimizer, r.trainer.memory.form, r.trainer.memory.storage);
  plan.model_flops = static_cast<double>(plan.tokens) * training_flops_per_token(c.model, c.train.seq_length);

  const auto moments = static_cast<std::size_t>(c.train.moments());
  for (const OwnedPiece& p : owned_pieces(r.trainer.table(), plan.at, false))
    plan.model_file += static_cast<std::size_t>(p.part.size()) * sizeof(float);
  plan.optimizer_file = moments * plan.model_file;
  plan.files_total = static_cast<std::size_t>(plan.parameters.total) * sizeof(float) * (1 + moments);
  if (c.checkpoint.model_every > 0) {
    const std::size_t each = c.checkpoint.model_dtype == "bf16" ? 2 : sizeof(float);
    plan.model_alone = plan.model_file / sizeof(float) * each;
    plan.model_alone_total = static_cast<std::size_t>(plan.parameters.total) * each;
  }
  return plan;
}

}  // namespace upcycle
