#include "parallel/serve/engine.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

#include "core/check.h"
#include "core/host_array.h"
#include "core/rng.h"
#include "core/trace.h"
#include "kernels/dry/dry_device.h"
#include "kernels/ops.h"
#include "parallel/comm/comm_dry.h"
#include "parallel/comm/cuda_memory.h"
#include "parallel/serve/engine_buffers.h"
#include "parallel/serve/replicas.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;

// What a step's products read of the weights: everything dense but an embedding that is only looked up, and the experts
// that got tokens.
struct WeightBytes {
  double dense = 0, expert = 0;
};

WeightBytes weight_bytes(const ModelConfig& model, DType dtype) {
  const auto size = static_cast<double>(size_of(dtype));
  const std::int64_t expert = model.is_moe() ? 3 * model.hidden_size * model.expert_size() : 0;
  std::int64_t dense = count_parameters(model).total;
  if (!model.tie_word_embeddings) dense -= model.vocab_size * model.hidden_size;
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l)
    if (model.is_moe_layer(l)) dense -= model.num_local_experts * expert;
  return {static_cast<double>(dense) * size, static_cast<double>(expert) * size};
}

class Engine final : public Server {
 public:
  Engine(const LoadedModel& model, const SchedulerOptions& options, SeeLogits see_logits);

  void add(Request request) override { replicas_.add(std::move(request)); }
  bool cancel(std::int64_t id) override { return replicas_.cancel(id); }
  bool busy() const override { return replicas_.busy(); }
  const StepReport& step() override;
  std::span<const std::int64_t> expert_tokens() const override {
    if (b_.model->dispatch_host == nullptr) return {};
    return b_.model->dispatch_host->expert_tokens;
  }
  double now() override;
  void wait_until(double time) override;

 private:
  int dp() const { return m_.mesh->layout.dp; }
  void hand_over(std::span<const ScheduledRows> plan);
  void compute(std::int64_t drawing);
  void show_logits(std::span<const ScheduledRows> plan, std::int64_t drawing);
  void share_drawn(std::int64_t drawing);
  void complete();

  const LoadedModel& m_;
  SchedulerOptions options_;
  SeeLogits see_logits_;
  WeightBytes weight_bytes_;
  Arena cache_{"key/value cache"}, activations_{"activations"};
  EngineBuffers b_;
  Batch batch_;
  CachedSequences cached_;
  HostArray<std::int32_t> rows_, pages_;  // of StepTensors, to be copied
  HostArray<std::int32_t> drawn_;         // (dp, max_num_seqs + 2)
  Replicas replicas_;
  StepReport report_;
  Clock::time_point start_;
};

Engine::Engine(const LoadedModel& model, const SchedulerOptions& options, SeeLogits see_logits)
    : m_(model),
      options_(options),
      see_logits_(std::move(see_logits)),
      weight_bytes_(weight_bytes(model.config, model.dtype)),
      replicas_(model.mesh->layout.dp, options) {
  const auto layout = [&] {
    b_ = lay_out_engine(cache_, activations_, m_.config, m_.dtype, options_, m_.device->kind(), *m_.device, *m_.stream,
                        *m_.ops, *m_.mesh);
  };
  layout();
  cache_.allocate(*m_.device);
  activations_.allocate(*m_.device);
  layout();
  bind_weights(*b_.model, m_.dense, m_.expert);
  rows_ = HostArray<std::int32_t>(*m_.device, static_cast<std::size_t>(b_.step.rows.size()));
  pages_ = HostArray<std::int32_t>(*m_.device, static_cast<std::size_t>(b_.step.pages.size()));
  drawn_ = HostArray<std::int32_t>(*m_.device, static_cast<std::size_t>(dp() * (options_.max_num_seqs + 2)));
  report_.tokens.reserve(static_cast<std::size_t>(dp() * options_.max_num_seqs));
  m_.mesh->world->barrier();
  start_ = Clock::now();
}

double Engine::now() {
  const double mine = std::chrono::duration<double>(Clock::now() - start_).count();
  return m_.mesh->layout.world == 1 ? mine : m_.mesh->world->sum_of(m_.mesh->rank == 0 ? mine : 0);
}

void Engine::wait_until(double time) {
  std::this_thread::sleep_until(start_ +
                                std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time)));
}

// Writes this replica's part of the step for the device, padded to whole rows of every tp rank, and starts the copies.
void Engine::hand_over(std::span<const ScheduledRows> plan) {
  const StepTensors& d = b_.step;
  const auto host = [&](const Tensor& t) {  // the same place in the host's copy
    return rows_.data() + (static_cast<const std::int32_t*>(t.data) - static_cast<const std::int32_t*>(d.rows.data));
  };
  std::int32_t *const tokens = host(d.tokens), *const positions = host(d.positions), *const slots = host(d.slots);
  std::int32_t *const offsets = host(d.offsets), *const lengths = host(d.lengths),
                      *const logit_rows = host(d.logit_rows);
  std::int32_t* const top_k = host(d.top_k);
  const auto floats = [&](const Tensor& t) { return reinterpret_cast<float*>(host(t)); };
  float *const temperature = floats(d.temperature), *const top_p = floats(d.top_p), *const uniform = floats(d.uniform);
  const std::int64_t P = options_.page_rows, most_pages = d.pages.shape[1];
  std::int64_t T = 0, n = 0, drawing = 0;
  PagedSequences& s = cached_.sequences;
  s.most_rows = s.most_keys = 0;
  offsets[0] = 0;
  for (const ScheduledRows& r : plan) {
    const Sequence& q = *r.sequence;
    for (std::int64_t i = r.begin; i < r.begin + r.rows; ++i, ++T) {
      tokens[T] = q.tokens[static_cast<std::size_t>(i)];
      positions[T] = static_cast<std::int32_t>(i);
      slots[T] = static_cast<std::int32_t>(q.pages[static_cast<std::size_t>(i / P)] * P + i % P);
    }
    const std::int64_t keys = r.begin + r.rows;
    std::copy_n(q.pages.begin(), (keys + P - 1) / P, pages_.data() + n * most_pages);
    lengths[n] = static_cast<std::int32_t>(keys);
    offsets[++n] = static_cast<std::int32_t>(T);
    s.most_rows = std::max(s.most_rows, r.rows);
    s.most_keys = std::max(s.most_keys, keys);
    if (!r.samples) continue;
    const SamplingOptions& o = q.request.sampling;
    logit_rows[drawing] = static_cast<std::int32_t>(T - 1);
    temperature[drawing] = static_cast<float>(o.temperature);
    top_k[drawing] = static_cast<std::int32_t>(std::min<std::int64_t>(o.top_k, m_.config.vocab_size));
    top_p[drawing] = std::max(static_cast<float>(o.top_p), std::numeric_limits<float>::min());
    // Rounded to fp32 a draw close to 1 must not become 1.
    uniform[drawing++] = std::min(
        static_cast<float>(rng::uniform(o.seed, rng::key_of("generate"), static_cast<std::uint64_t>(q.new_tokens()))),
        0x1.fffffep-1f);
  }
  const std::int64_t tp = m_.mesh->layout.tp, real = T, rows = std::max<std::int64_t>(1, (T + tp - 1) / tp) * tp;
  for (; T < rows; ++T) {
    tokens[T] = positions[T] = 0;
    slots[T] = -1;
  }
  m_.device->copy_from_host(*m_.stream, d.rows.data, rows_.data(), d.rows.bytes());
  m_.device->copy_from_host(*m_.stream, d.pages.data, pages_.data(),
                            static_cast<std::size_t>(n * most_pages) * sizeof(std::int32_t));
  set_rows(*b_.model, b_.whole, rows, rows - real);
  batch_.tokens = d.tokens.slice_rows(0, rows);
  batch_.positions = d.positions.slice_rows(0, rows);
  cached_.layers = b_.cache;
  cached_.slots = d.slots.slice_rows(0, rows);
  s.offsets = d.offsets.slice_rows(0, n + 1);
  s.lengths = d.lengths.slice_rows(0, n);
  s.pages = d.pages.slice_rows(0, n);
  s.count = n;
}

// The step's forward and its draws, to b_.drawn.
void Engine::compute(std::int64_t drawing) {
  forward_hidden(*b_.model, batch_, 0, &cached_);
  if (drawing == 0) return;
  const std::int64_t V_local = b_.model->sizes.V_local, tp = m_.mesh->layout.tp;
  const StepTensors& d = b_.step;
  const Tensor mine = b_.logits.slice_rows(0, drawing * V_local).reshaped({drawing, V_local});
  logits_of(*b_.model, mine, b_.hidden.slice_rows(0, drawing), d.logit_rows.slice_rows(0, drawing));
  Tensor all = mine.reshaped({1, drawing, V_local});
  if (tp > 1) {
    all = b_.all_logits.slice_rows(0, tp * drawing * V_local).reshaped({tp, drawing, V_local});
    m_.stream->wait(m_.mesh->tp->all_gather(all, mine));
  }
  const auto first = [&](const Tensor& t) { return t.slice_rows(0, drawing); };
  m_.ops->sample_tokens(*m_.stream, b_.model->workspace, first(b_.drawn), all, m_.config.vocab_size,
                        {first(d.temperature), first(d.top_k), first(d.top_p), first(d.uniform)});
}

void Engine::show_logits(std::span<const ScheduledRows> plan, std::int64_t drawing) {
  const std::int64_t V_local = b_.model->sizes.V_local, tp = m_.mesh->layout.tp;
  const Tensor& logits = tp > 1 ? b_.all_logits : b_.logits;
  std::vector<float> host(static_cast<std::size_t>(tp * drawing * V_local)), row;
  m_.device->copy_to_host(*m_.stream, host.data(), logits.data, host.size() * sizeof(float));
  m_.stream->synchronize();
  std::int64_t i = 0;
  for (const ScheduledRows& r : plan) {
    if (!r.samples) continue;
    row.clear();
    for (std::int64_t p = 0; p < tp; ++p) {
      const float* part = host.data() + (p * drawing + i) * V_local;
      row.insert(row.end(), part, part + V_local);
    }
    ++i;
    row.resize(static_cast<std::size_t>(m_.config.vocab_size));
    see_logits_(*r.sequence, row);
  }
}

// drawn_ = every replica's tokens, and behind them what its experts did.
void Engine::share_drawn(std::int64_t drawing) {
  std::int32_t use[2] = {0, 0};
  if (DispatchHost* d = b_.model->dispatch_host.get(); d != nullptr) {
    auto touched = static_cast<double>(d->experts_touched), assignments = static_cast<double>(d->assignments);
    d->experts_touched = d->assignments = 0;
    const Layout& l = m_.mesh->layout;
    if (l.tp > l.ep * l.etp) {  // several ep groups are this replica
      touched = m_.mesh->tp->sum_of(touched) / (l.ep * l.etp);
      assignments = m_.mesh->tp->sum_of(assignments) / (l.ep * l.etp);
    }
    use[0] = static_cast<std::int32_t>(touched);
    use[1] = static_cast<std::int32_t>(assignments);
  }
  const std::int64_t width = options_.max_num_seqs + 2;
  if (dp() == 1) {
    m_.device->copy_to_host(*m_.stream, drawn_.data(), b_.drawn.data, static_cast<std::size_t>(drawing) * sizeof(int));
    std::copy(use, use + 2, drawn_.data() + width - 2);
  } else {
    m_.device->copy_from_host(*m_.stream, b_.drawn.slice_rows(width - 2, width).data, use, sizeof use);
    m_.stream->wait(m_.mesh->dp->all_gather(b_.all_drawn, b_.drawn));
    m_.device->copy_to_host(*m_.stream, drawn_.data(), b_.all_drawn.data, b_.all_drawn.bytes());
  }
  m_.stream->synchronize();
}

// Every replica's tokens join their sequences.
void Engine::complete() {
  const std::int64_t width = options_.max_num_seqs + 2;
  // Where an ep group is several replicas, each of them has its counts.
  const Layout& l = m_.mesh->layout;
  const double groups_per_replica = std::min(1.0, static_cast<double>(l.tp) / (l.ep * l.etp));
  double touched = 0, assignments = 0;
  for (int d = 0; d < dp(); ++d) {
    const std::int32_t* drawn = drawn_.data() + d * width;
    const auto replica = static_cast<std::size_t>(d);
    replicas_.complete(replica, {drawn, static_cast<std::size_t>(replicas_.draws(replica))}, report_);
    touched += drawn[width - 2] * groups_per_replica;
    assignments += drawn[width - 1] * groups_per_replica;
  }
  report_.experts_touched = std::llround(touched);
  report_.assignments = std::llround(assignments);
  report_.weight_bytes = weight_bytes_.dense * dp() + touched * weight_bytes_.expert;
}

const StepReport& Engine::step() {
  const TraceRange range("serve_step");
  replicas_.schedule(report_);
  if (report_.rows == 0) return report_;
  const auto me = static_cast<std::size_t>(m_.mesh->at.dp);
  const std::span<const ScheduledRows> mine = replicas_.plans()[me];
  const std::int64_t drawing = replicas_.draws(me);
  hand_over(mine);
  compute(drawing);
  if (see_logits_) show_logits(mine, drawing);
  share_drawn(drawing);
  complete();
  return report_;
}

}  // namespace

std::unique_ptr<Server> make_engine(const LoadedModel& model, const SchedulerOptions& options,
                                    const SeeLogits& see_logits) {
  return std::make_unique<Engine>(model, options, see_logits);
}

std::vector<MemoryClass> engine_memory(const ModelConfig& model, const Layout& layout, int rank, DType dtype,
                                       const SchedulerOptions& options, DeviceKind computes,
                                       const WorkspaceBytes& workspace_bytes) {
  OpCount count;
  CollectiveTable collectives;
  DryDevice device;
  const auto stream = device.make_stream();
  const auto ops = make_dry_ops(count, workspace_bytes);
  const Mesh mesh = make_dry_mesh(layout, rank, collectives);
  const ParamTable table = make_param_table(model, layout, mesh.at);
  Arena weights("weights"), cache("key/value cache"), activations("activations");
  weights.take(dtype, {table.dense.size});
  weights.take(dtype, {table.expert.size});
  const EngineBuffers b =
      lay_out_engine(cache, activations, model, dtype, options, computes, device, *stream, *ops, mesh);
  std::vector<MemoryClass> classes;
  for (const Arena* a : {&weights, &cache, &activations})
    classes.insert(classes.end(), a->classes().begin(), a->classes().end());
  const int communicators = (layout.tp > 1) + (layout.dp > 1) + (layout.ep > 1 && model.is_moe());
  classes.push_back(computes == DeviceKind::Cuda ? cuda_estimate(communicators)
                                                 : MemoryClass{"collectives", collective_scratch_bytes(layout)});
  // The host's copies of what a step hands over, and of what its experts exchange.
  std::size_t host = b.step.rows.bytes() + b.step.pages.bytes() + b.drawn.bytes() * static_cast<std::size_t>(layout.dp);
  if (model.is_moe())
    host += dispatch_host_bytes(b.model->sizes, layout.ep, b.model->activations.layers.front().moe.dispatch.limits);
  classes.push_back({"host side of a step", host, computes == DeviceKind::Cuda});
  return classes;
}

}  // namespace upcycle
