#include "parallel/serve/engine.h"

#include <cstdlib>
#include <map>
#include <numeric>

#include "core/rng.h"
#include "kernels/ops.h"
#include "parallel/comm/layout.h"
#include "tests/model_forms.h"
#include "tests/mpi_tests.h"
#include "tests/serve_mpi/count_allocations.h"
#include "tests/upcycle/models.h"

// The engine over ranks against the training forward of one rank.
namespace upcycle::test {
namespace {

enum class Kind { Dense, Moe, SharedExpert, BiasedDense, PostNormMoe, SigmoidMoe, GemmaMoe };

bool is_dense(Kind kind) { return kind == Kind::Dense || kind == Kind::BiasedDense; }

ModelConfig model_of(Kind kind) {
  ModelConfig m = dense_model();
  m.max_position_embeddings = 96;
  if (kind == Kind::Dense) return m;
  if (kind == Kind::BiasedDense) return ModelForm{"", "all", "head", "pre", true}.of(m);
  if (kind == Kind::PostNormMoe) m = kPostNorms.of(m);
  if (kind == Kind::GemmaMoe) m = kGemma.of(m);
  m.num_local_experts = 8;
  m.num_experts_per_tok = 2;
  m.moe_intermediate_size = 12;
  m.shared_expert = kind == Kind::SharedExpert;
  if (kind == Kind::SigmoidMoe) m.router_score = "sigmoid", m.router_bias = true;
  if (kind == Kind::SharedExpert) m.router_softmax = "softmax_then_topk";
  return m;
}

std::vector<Request> requests(const ModelConfig& m, std::int64_t count, std::int64_t longest, std::int64_t most_new,
                              double temperature) {
  std::vector<Request> all;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::uint64_t>(i);
    const auto draw = [&](std::int64_t most, std::uint64_t what, std::uint64_t n = 0) {
      return static_cast<std::int64_t>(rng::below(static_cast<std::uint64_t>(most), 3, at * 8 + what, n));
    };
    Request r;
    r.id = 100 + i;
    const std::int64_t length = 1 + draw(longest, 0);
    for (std::int64_t t = 0; t < length; ++t)
      r.prompt.push_back(static_cast<std::int32_t>(draw(m.vocab_size, 1, static_cast<std::uint64_t>(t))));
    r.max_tokens = 1 + draw(most_new, 2);
    r.sampling.temperature = temperature;
    r.sampling.seed = at;
    all.push_back(r);
  }
  return all;
}

struct Layout3 {
  int tp, ep, etp;
};

// tp 1, 2 x ep 1, 2, 4, and experts cut over tp, as far as this world has them.
std::vector<Layout3> layouts(Kind kind) {
  std::vector<Layout3> all;
  const int world = mpi_session().size();
  for (const int tp : {1, 2})
    for (const int ep : {1, 2, 4})
      for (const int etp : {1, tp}) {
        if (etp == tp && tp > 1 && is_dense(kind)) continue;
        if (world % tp != 0 || world % (ep * etp) != 0 || (is_dense(kind) && ep > 1)) continue;
        all.push_back({tp, ep, etp});
        if (tp == 1) break;
      }
  return all;
}

// Some in which replicas depend on each other, for what takes longer.
std::vector<Layout3> some_layouts(Kind kind) {
  const int world = mpi_session().size();
  if (is_dense(kind)) return {{world % 2 == 0 ? 2 : 1, 1, 1}};
  if (world == 2) return {{1, 2, 1}, {2, 1, 1}};
  if (world == 4) return {{1, 4, 1}, {2, 4, 1}};
  return {{world % 2 == 0 ? 2 : 1, world % 4 == 0 ? 4 : 1, 1}};
}

struct Outcome {
  std::map<std::int64_t, std::vector<std::int32_t>> tokens;  // new ones, by request
  // By request and position: the logits that its token was drawn from. Of this rank's replica.
  std::map<std::pair<std::int64_t, std::size_t>, std::vector<float>> logits;
  std::int64_t preemptions = 0, steps = 0;
};

struct Engines {
  Rig rig, cpu = cpu_rig();
  DrawnModel source;
  explicit Engines(Kind kind) : source(model_of(kind), 5) {}

  Outcome serve(const Mesh& mesh, const SchedulerOptions& options, std::vector<Request> all, DType dtype = DType::F32) {
    const LoadedModel m = load_model(source, dtype, mesh, *rig.device, *rig.stream, *rig.ops);
    Outcome o;
    const auto engine = make_engine(m, options, [&](const Sequence& s, std::span<const float> logits) {
      o.logits[{s.request.id, s.tokens.size()}].assign(logits.begin(), logits.end());
    });
    for (Request& r : all) engine->add(std::move(r));
    while (engine->busy()) {
      const StepReport& report = engine->step();
      ++o.steps;
      o.preemptions += report.preemptions;
      for (const EmittedToken& t : report.tokens) o.tokens[t.id].push_back(t.token);
    }
    return o;
  }

  // Logits (tokens, V) of the training forward on one rank's CPU.
  std::vector<float> reference(const std::vector<std::int32_t>& tokens) {
    return logits_of(cpu, single_mesh(cpu), source, DType::F32, tokens);
  }
};

SchedulerOptions options_of(const ModelConfig& m, std::int64_t budget, std::int64_t pages) {
  SchedulerOptions o;
  o.max_num_seqs = 4;
  o.max_num_batched_tokens = budget;
  o.max_model_len = m.max_position_embeddings;
  o.page_rows = 8;
  o.pages = pages;
  return o;
}

// Each token was drawn from the training forward's logits of all before it; greedily, but for near ties.
void expect_reference(Engines& engines, const std::vector<Request>& all, const Outcome& o) {
  const std::int64_t V = engines.source.model().vocab_size;
  for (const Request& r : all) {
    ASSERT_TRUE(o.tokens.contains(r.id)) << r.id;
    const std::vector<std::int32_t>& drawn = o.tokens.at(r.id);
    ASSERT_EQ(static_cast<std::int64_t>(drawn.size()), r.max_tokens);
    std::vector<std::int32_t> sequence = r.prompt;
    sequence.insert(sequence.end(), drawn.begin(), drawn.end());
    const std::vector<float> expected = engines.reference(sequence);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const std::size_t length = r.prompt.size() + i;  // of the sequence that was continued
      const auto row =
          std::span(expected).subspan((length - 1) * static_cast<std::size_t>(V), static_cast<std::size_t>(V));
      float best = row[0];
      for (const float x : row) best = std::max(best, x);
      EXPECT_GE(row[static_cast<std::size_t>(drawn[i])], best - 1e-4f) << "request " << r.id << ", token " << i;
      const auto seen = o.logits.find({r.id, length});
      if (seen == o.logits.end()) continue;  // another replica's
      double difference = 0, norm = 0;
      for (std::size_t v = 0; v < row.size(); ++v) {
        difference += std::pow(double{seen->second[v]} - row[v], 2);
        norm += std::pow(double{row[v]}, 2);
      }
      EXPECT_LT(std::sqrt(difference / norm), 1e-5) << "request " << r.id << ", token " << i;
    }
  }
}

// Each rank saw the logits of all that its replica drew: none of the comparisons is left out.
void expect_all_seen(const Mesh& mesh, const std::vector<Request>& all, const Outcome& o) {
  std::int64_t drawn = 0;
  for (const Request& r : all) drawn += r.max_tokens;
  EXPECT_EQ(mesh.world->sum_of(static_cast<double>(o.logits.size())), static_cast<double>(mesh.layout.tp * drawn));
}

class EngineTest : public ::testing::TestWithParam<Kind> {};

TEST_P(EngineTest, LogitsAreTheTrainingForwardsInEveryLayout) {
  Engines engines(GetParam());
  const ModelConfig& m = engines.source.model();
  const std::vector<Request> all = requests(m, 11, 50, 12, 0);
  for (const Layout3& l : layouts(GetParam())) {
    SCOPED_TRACE(fmt::format("tp {} ep {} etp {}", l.tp, l.ep, l.etp));
    const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
    const std::int64_t enough = 4 * 12;
    // Chunks of any size, mixed with decoding; where eight ranks share two cores, of one.
    const auto budgets =
        mpi_session().size() < 8 ? std::vector<std::int64_t>{4, 13, 64} : std::vector<std::int64_t>{13};
    for (const std::int64_t budget : budgets) {
      SCOPED_TRACE(budget);
      const Outcome o = engines.serve(mesh, options_of(m, budget, enough), all);
      expect_all_seen(mesh, all, o);
      expect_reference(engines, all, o);
    }
    SchedulerOptions whole = options_of(m, 96, enough);
    whole.policy = SchedulingPolicy::PrefillFirst;
    expect_reference(engines, all, engines.serve(mesh, whole, all));
  }
}

TEST_P(EngineTest, ACacheTooSmallForAllComputesThemAgain) {
  Engines engines(GetParam());
  const ModelConfig& m = engines.source.model();
  for (const Layout3& l : some_layouts(GetParam())) {
    SCOPED_TRACE(fmt::format("tp {} ep {}", l.tp, l.ep));
    const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
    const std::vector<Request> all = requests(m, 12 * mesh.layout.dp, 30, 30, 0);
    const Outcome o = engines.serve(mesh, options_of(m, 32, 8), all);
    EXPECT_GT(o.preemptions, 0);
    expect_all_seen(mesh, all, o);
    expect_reference(engines, all, o);
  }
}

std::string kind_name(const ::testing::TestParamInfo<Kind>& info) {
  constexpr const char* names[] = {"Dense",       "Moe",        "SharedExpert", "BiasedDense",
                                   "PostNormMoe", "SigmoidMoe", "GemmaMoe"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Models, EngineTest,
                         ::testing::Values(Kind::Dense, Kind::Moe, Kind::SharedExpert, Kind::BiasedDense,
                                           Kind::PostNormMoe, Kind::SigmoidMoe, Kind::GemmaMoe),
                         kind_name);

// A seed's draws do not depend on the batch.
TEST(Engine, SampledTokensAreTheRequestsOwn) {
  Engines engines(Kind::Moe);
  const ModelConfig& m = engines.source.model();
  const Layout3 l = some_layouts(Kind::Moe).front();
  const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
  std::vector<Request> all = requests(m, 9, 20, 15, 1.0);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].sampling.top_k = static_cast<std::int64_t>(i % 3) * 5;
    all[i].sampling.top_p = i % 2 == 0 ? 1 : 0.8;
  }
  const Outcome together = engines.serve(mesh, options_of(m, 16, 48), all);
  std::int64_t different = 0;
  for (const Request& r : all) {
    const Outcome alone = engines.serve(mesh, options_of(m, 96, 48), {r});
    different += alone.tokens.at(r.id) != together.tokens.at(r.id);
  }
  EXPECT_LE(different, 1);  // a draw within rounding of the border between two tokens may fall on either side

  // They are draws: another seed's are others, and among one token they are the greedy ones.
  const auto served = [&](double temperature, std::int64_t top_k, std::uint64_t seed) {
    for (Request& r : all) {
      r.max_tokens = 15;
      r.sampling = {.temperature = temperature, .top_k = top_k, .seed = seed};
    }
    return engines.serve(mesh, options_of(m, 16, 48), all).tokens;
  };
  const auto greedy = served(0, 0, 1), one = served(1, 0, 1);
  EXPECT_EQ(served(1, 1, 1), greedy);
  EXPECT_NE(one, greedy);
  EXPECT_NE(served(1, 0, 2), one);
  EXPECT_EQ(served(1, 0, 1), one);
}

// What a step in bf16 computes is the training forward in bf16, but for the order of its sums.
TEST(Engine, Bf16LogitsAreNearTheTrainingForwards) {
  Engines engines(Kind::Dense);
  const ModelConfig& m = engines.source.model();
  const auto V = static_cast<std::size_t>(m.vocab_size);
  const Layout3 l = some_layouts(Kind::Dense).front();
  const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
  const std::vector<Request> all = requests(m, 5, 30, 8, 0);
  const Outcome o = engines.serve(mesh, options_of(m, 13, 48), all, DType::BF16);
  expect_all_seen(mesh, all, o);
  for (const Request& r : all) {
    std::vector<std::int32_t> sequence = r.prompt;
    const std::vector<std::int32_t>& drawn = o.tokens.at(r.id);
    sequence.insert(sequence.end(), drawn.begin(), drawn.end());
    const std::vector<float> expected =
        logits_of(engines.cpu, single_mesh(engines.cpu), engines.source, DType::BF16, sequence);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const std::size_t length = r.prompt.size() + i;
      const auto seen = o.logits.find({r.id, length});
      if (seen == o.logits.end()) continue;  // another replica's
      double difference = 0, norm = 0;
      for (std::size_t v = 0; v < V; ++v) {
        const double x = expected[(length - 1) * V + v];
        difference += std::pow(seen->second[v] - x, 2);
        norm += x * x;
      }
      EXPECT_LT(std::sqrt(difference / norm), 5e-3) << "request " << r.id << ", token " << i;
    }
  }
}

// Random arrivals and cancellations in a cache so small that sequences lose their pages: what is served is what each
// request gets alone, and nothing stays behind.
void schedule_randomly(std::int64_t count) {
  Engines engines(Kind::Moe);
  const ModelConfig& m = engines.source.model();
  const Layout3 l = some_layouts(Kind::Moe).back();
  const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
  const LoadedModel model =
      load_model(engines.source, DType::F32, mesh, *engines.rig.device, *engines.rig.stream, *engines.rig.ops);
  const std::vector<Request> all = requests(m, count, 40, 24, 0);
  const auto engine = make_engine(model, options_of(m, 20, 10));
  std::map<std::int64_t, std::vector<std::int32_t>> tokens;
  std::map<std::int64_t, bool> ended, cancelled;
  std::size_t next = 0;
  std::uint64_t draws = 0;
  std::int64_t preemptions = 0;
  while (next < all.size() || engine->busy()) {
    for (std::uint64_t n = rng::below(3, 9, 1, draws++); n > 0 && next < all.size(); --n) engine->add(all[next++]);
    if (next > 0 && rng::below(10, 9, 2, draws++) == 0) {
      const std::int64_t id = all[rng::below(next, 9, 3, draws++)].id;
      if (engine->cancel(id)) cancelled[id] = true;
    }
    const StepReport& report = engine->step();
    preemptions += report.preemptions;
    for (const EmittedToken& t : report.tokens) {
      EXPECT_FALSE(cancelled[t.id] || ended[t.id]) << t.id;
      tokens[t.id].push_back(t.token);
      ended[t.id] = t.finished != FinishReason::None;
    }
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(cancelled.size(), 3u);
  // All pages of each replica are free: a sequence that needs all of them is served.
  for (std::int64_t i = 0; i < mesh.layout.dp; ++i) {
    Request r;
    r.id = i;
    r.prompt.assign(73, 1);
    r.max_tokens = 8;
    engine->add(r);
  }
  for (int i = 0; i < 20 && engine->busy(); ++i) EXPECT_EQ(engine->step().preemptions, 0);
  EXPECT_FALSE(engine->busy());
  Outcome served;
  served.tokens = tokens;
  std::vector<Request> complete;
  for (const Request& r : all) {
    EXPECT_NE(ended[r.id], cancelled[r.id]) << r.id;
    if (ended[r.id]) complete.push_back(r);
  }
  expect_reference(engines, complete, served);
}
TEST(Engine, RandomSchedulingLosesNothing) {
  const bool fast = mpi_session().size() == 1 && make_rig_device()->kind() == DeviceKind::Cpu;
  schedule_randomly(fast ? 1000 : 150);
}
TEST(FullEngine, RandomSchedulingOfTenThousandLosesNothing) { schedule_randomly(10000); }

// One token through two MoE layers of k 2: rows that are no tokens, of tp or of replicas without work, count nothing
// and go to no expert.
TEST(Engine, CountsTheExpertsThatTokensTouch) {
  Engines engines(Kind::Moe);
  for (const Layout3& l : layouts(Kind::Moe)) {
    SCOPED_TRACE(fmt::format("tp {} ep {} etp {}", l.tp, l.ep, l.etp));
    const Mesh mesh = make_test_mesh(*engines.rig.device, *engines.rig.stream, l.tp, l.ep, l.etp);
    const LoadedModel model =
        load_model(engines.source, DType::F32, mesh, *engines.rig.device, *engines.rig.stream, *engines.rig.ops);
    const ModelConfig& c = model.config;
    const double expert = 3.0 * 4 * static_cast<double>(c.hidden_size * c.expert_size());
    const double dense =
        4.0 * static_cast<double>(count_parameters(c).total - c.vocab_size * c.hidden_size) - 2 * 8 * expert;
    const auto engine = make_engine(model, options_of(c, 40, 12));
    Request r;
    r.prompt = {1, 2, 3};
    r.max_tokens = 4;
    engine->add(r);
    EXPECT_EQ(engine->step().assignments, 12);
    for (int i = 0; i < 3; ++i) {
      const StepReport& report = engine->step();
      EXPECT_EQ(report.rows, 1);
      EXPECT_EQ(report.assignments, 4);
      EXPECT_EQ(report.experts_touched, 4);
      const auto tokens = engine->expert_tokens();  // zeros where another ep group computed it
      const std::int64_t sum = std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0});
      const bool whole = mesh.layout.edp == 1;  // one group is all
      EXPECT_TRUE(whole ? sum == 12 + 4 * (i + 1) : sum <= 12 + 4 * (i + 1)) << sum;
      EXPECT_EQ(report.weight_bytes, dense * mesh.layout.dp + 4 * expert);
    }
  }
}

// What a device gave out.
class CountingDevice final : public Device {
 public:
  explicit CountingDevice(Device& device) : device_(device) {}
  DeviceKind kind() const override { return device_.kind(); }
  std::unique_ptr<Stream> make_stream() override { return device_.make_stream(); }
  void* allocate(std::size_t n) override {
    bytes += n;
    return device_.allocate(n);
  }
  void release(void* data, std::size_t n) override {
    bytes -= n;
    device_.release(data, n);
  }
  void* allocate_host(std::size_t n) override {
    host_bytes += n;
    return device_.allocate_host(n);
  }
  void release_host(void* data, std::size_t n) override {
    host_bytes -= n;
    device_.release_host(data, n);
  }
  void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) override {
    device_.copy(stream, kind, to, from, runs);
  }
  std::size_t bytes = 0, host_bytes = 0;

 private:
  Device& device_;
};

TEST(Engine, MemoryIsThePlansAndDecodingAllocatesNothing) {
  for (const Kind kind : {Kind::Dense, Kind::SharedExpert}) {
    Engines engines(kind);
    const ModelConfig& m = engines.source.model();
    const int world = mpi_session().size();
    const int tp = world % 2 == 0 ? 2 : 1, ep = kind == Kind::Dense ? 1 : std::min(world, 4);
    CountingDevice device(*engines.rig.device);
    const Mesh mesh = make_test_mesh(device, *engines.rig.stream, tp, ep);
    const SchedulerOptions options = options_of(m, 40, 48);
    std::size_t planned = 0, planned_host = 0;
    for (const MemoryClass& c :
         engine_memory(m, mesh.layout, mesh.rank, DType::F32, options, device.kind(),
                       [&](const OpLimits& limits) { return engines.rig.ops->workspace_bytes(limits); }))
      if (c.name == "host side of a step")
        planned_host += c.bytes;
      else if (c.name != "collectives" && !c.name.starts_with("CUDA"))
        planned += c.bytes;
    const LoadedModel model =
        load_model(engines.source, DType::F32, mesh, device, *engines.rig.stream, *engines.rig.ops);
    const auto engine = make_engine(model, options);
    EXPECT_EQ(device.bytes, planned);
    EXPECT_EQ(device.host_bytes, planned_host);
    std::vector<Request> all = requests(m, 3 * mesh.layout.dp, 30, 1, 0);
    for (Request& r : all) {
      r.max_tokens = 40;
      engine->add(r);
    }
    for (int i = 0; i < 12; ++i) (void)engine->step();
    const std::uint64_t arenas = device_allocation_count();
    const std::int64_t before = allocation_count();
    std::size_t drawn = 0;
    for (int i = 0; i < 20; ++i) drawn += engine->step().tokens.size();
    EXPECT_EQ(drawn, 20 * all.size());
    EXPECT_EQ(device_allocation_count(), arenas);
    EXPECT_GT(before, 0);
    // The emulated GPU's launches are closures on the heap.
    const bool emulated = std::getenv("UPCYCLE_EMUL_GUARD") != nullptr;
    EXPECT_TRUE(emulated || allocation_count() == before) << allocation_count() << " and " << before;
  }
}

}  // namespace
}  // namespace upcycle::test
