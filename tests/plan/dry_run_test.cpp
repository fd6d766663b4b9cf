#include <fmt/core.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/dry/dry_device.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/comm/comm_dry.h"
#include "parallel/plan/plan.h"
#include "parallel/train/snapshot.h"
#include "tests/data/temporary_folder.h"
#include "tests/model_forms.h"
#include "tests/train/rig.h"

// The plan compared with one rank that really runs.
namespace upcycle {
namespace {

struct Case {
  const char* name;
  void (*change)(Config&);
};

Config config_of(const Case& c) {
  Config config = small_moe_config();
  config.train.global_batch_size = 8;
  c.change(config);
  return config;
}

const Case kCases[] = {
    {"moe", [](Config&) {}},
    {"dense", [](Config& c) { c.model = small_config().model; }},
    {"tied, sgd", [](Config& c) { c.model.tie_word_embeddings = true, c.train.optimizer = "sgd"; }},
    {"moe, lion", [](Config& c) { c.train.optimizer = "lion"; }},
    {"bf16, masters as remainders", [](Config& c) { c.dtype = "bf16", c.train.master_dtype = "bf16_remainder"; }},
    {"bf16 moments",
     [](Config& c) { c.dtype = "bf16", c.train.master_dtype = "bf16_remainder", c.train.moment_dtype = "bf16"; }},
    {"recomputed", [](Config& c) { c.train.recompute = "full"; }},
    {"classes recomputed", [](Config& c) { c.train.recompute = "attention,mlp,norms"; }},
    {"shared expert, every 2", [](Config& c) { c.model.shared_expert = true, c.model.moe_every_n_layers = 2; }},
    {"biases", [](Config& c) { c.model = kBiases.of(small_config().model); }},
    {"norms of heads", [](Config& c) { c.model = kHeadNorms.of(c.model); }},
    {"norms of outputs, recomputed",
     [](Config& c) { c.model = kBiasedPostNorms.of(c.model), c.train.recompute = "full"; }},
    {"shared expert with a gate, dense by name",
     [](Config& c) {
       c.model.shared_expert = c.model.shared_expert_gate = true;
       c.model.shared_expert_size = 2 * c.model.intermediate_size;
       c.model.mlp_only_layers = {1};
     }},
    {"one microbatch", [](Config& c) { c.train.global_batch_size = c.train.micro_batch_size; }},
};

class DryRun : public ::testing::TestWithParam<Case> {};

std::vector<std::string> lines(std::vector<CollectiveCount> counts) {
  std::vector<std::string> all;
  for (const CollectiveCount& c : counts) all.push_back(fmt::format("{} {} {} {}", c.group, c.op, c.calls, c.bytes));
  std::sort(all.begin(), all.end());
  return all;
}

TEST_P(DryRun, HasTheMemoryAndTheCollectivesOfARealStep) {
  Config config = config_of(GetParam());
  config.checkpoint.dir = "somewhere";
  const Plan plan = make_plan({config, {}, CpuOps::most_workspace}, 1);

  const Rig rig;
  const Mesh mesh = make_single_mesh();
  Trainer t = random_trainer(rig, config, mesh);
  const FixedSequences sequences = random_sequences(8, config.train.seq_length, config.model.vocab_size, 1);
  reset_trace_counters();
  (void)train_step(t, sequences.source());
  EXPECT_EQ(lines(plan.fixed), lines(trace_counters().counts));
  EXPECT_EQ(plan.dispatch_total, 0u);
  EXPECT_EQ(plan.micro_batches, config.train.global_batch_size / config.train.micro_batch_size);

  std::map<std::string, std::size_t> memory;
  for (const MemoryClass& m : plan.memory) memory[m.name] += m.bytes;
  EXPECT_EQ(memory.size(), plan.memory.size());  // each class once
  EXPECT_EQ(memory["parameters"], t.memory.parameters.capacity());
  EXPECT_EQ(memory["gradients"], t.memory.gradients.capacity());
  EXPECT_EQ(memory["optimizer"], t.memory.optimizer.capacity());
  EXPECT_EQ(memory["activations"] + memory["dispatch buffers"] + memory["scratch"], t.activations.capacity());
  EXPECT_EQ(memory["checkpoint snapshot"], make_snapshot(t).arena.capacity());
  EXPECT_GT(memory["scratch"], 0u);
  EXPECT_EQ(memory["dispatch buffers"] > 0, config.model.is_moe());
}

TEST_P(DryRun, FilesAreItsSizesAndWhatHdf5Adds) {
  const Config config = config_of(GetParam());
  const Plan plan = make_plan({config, {}, CpuOps::most_workspace}, 1);
  const Rig rig;
  const Mesh mesh = make_single_mesh();
  Trainer t = random_trainer(rig, config, mesh);
  Snapshot snapshot = make_snapshot(t);
  const TemporaryFolder folder;
  const auto files = write_rank_files(folder.file("step"), 1, 0, take_snapshot(t, snapshot).pieces);
  ASSERT_EQ(files.size(), plan.optimizer_file > 0 ? 2u : 1u);
  const std::int64_t most = 4096 * static_cast<std::int64_t>(t.table().rows.size());
  const auto adds = [&](const Checkpoint::FileEntry& file, std::size_t planned) {
    return file.bytes - static_cast<std::int64_t>(planned);
  };
  EXPECT_GT(adds(files[0], plan.model_file), 0);
  EXPECT_LT(adds(files[0], plan.model_file), most);
  if (files.size() == 2) {
    EXPECT_GT(adds(files[1], plan.optimizer_file), 0);
    EXPECT_LT(adds(files[1], plan.optimizer_file), 2 * most);
  }
  EXPECT_EQ(plan.files_total, plan.model_file + plan.optimizer_file);
}

INSTANTIATE_TEST_SUITE_P(All, DryRun, ::testing::ValuesIn(kCases));

// Sizes without padding: T, k and E give every expert a multiple of kExpertRowAlign rows.
Config round_config() {
  Config c = small_moe_config();
  c.train.seq_length = 32;
  c.train.global_batch_size = 6;
  return c;
}

// What a step computes beyond the model's FLOPs: the output projection's logits once more, and in attention's backward
// the scores once more.
double computed_again(const Config& c) {
  const double tokens = static_cast<double>(c.train.global_batch_size * c.train.seq_length);
  const double logits = 2.0 * static_cast<double>(c.model.hidden_size * c.model.vocab_size);
  const double scores = static_cast<double>(c.model.num_hidden_layers * c.train.seq_length *
                                            c.model.num_attention_heads * c.model.head_size());
  return tokens * (logits + scores);
}

TEST(Plan, FlopsAreTheModelsAndWhatIsComputedAgain) {
  const Config c = round_config();
  const Plan plan = make_plan({c, {}, CpuOps::most_workspace}, 1);
  EXPECT_DOUBLE_EQ(plan.model_flops, static_cast<double>(plan.tokens) * training_flops_per_token(c.model, 32));
  EXPECT_DOUBLE_EQ(plan.flops, plan.model_flops + computed_again(c));
  EXPECT_DOUBLE_EQ(plan.flops_total, plan.flops);
  EXPECT_GT(plan.memory_bytes, 0);
}

TEST(Plan, FlopsOfAllRanksDoNotDependOnTheLayout) {
  Config c = round_config();
  c.train.global_batch_size = 8;
  c.model.vocab_size = 38;
  const double one = make_plan({c, {}, CpuOps::most_workspace}, 1).flops_total;
  for (const auto& [tp, ep, etp] : {std::array{2, 1, 1}, {1, 4, 1}, {2, 2, 2}, {2, 4, 1}}) {
    c.parallel.tp = tp, c.parallel.ep = ep, c.parallel.etp = etp;
    const Plan plan = make_plan({c, {}, CpuOps::most_workspace}, 4);
    EXPECT_NEAR(plan.flops_total, one, one * 1e-12) << tp << ep << etp;
    EXPECT_NEAR(plan.flops * 4, one, one * 1e-12) << tp << ep << etp;
  }
}

// Words that tp does not divide evenly, so that its last ranks compute fewer or none; with E = 8, the assignments do
// not divide evenly either.
TEST(Plan, FlopsOfAllRanksAreTheSumOfTheirPlans) {
  for (const std::int64_t V : {509, 5})
    for (const auto& [ep, etp] : {std::array{1, 1}, {2, 1}, {2, 4}, {4, 1}, {8, 1}}) {
      Config c = small_moe_config();
      c.model.vocab_size = V;
      c.model.num_key_value_heads = 4;
      c.model.num_local_experts = 8;
      c.train.seq_length = 12;
      c.train.micro_batch_size = 1;
      c.train.global_batch_size = 6;
      c.parallel.tp = 4, c.parallel.ep = ep, c.parallel.etp = etp;
      double sum = 0, least = 0, most = 0;
      for (int rank = 0; rank < 8; ++rank) {
        const double flops = make_plan({c, {}, CpuOps::most_workspace}, 8, rank).flops;
        sum += flops;
        least = rank == 0 ? flops : std::min(least, flops);
        most = std::max(most, flops);
      }
      EXPECT_LT(least, most);
      for (const int rank : {0, 3, 7})
        EXPECT_EQ(make_plan({c, {}, CpuOps::most_workspace}, 8, rank).flops_total, sum)
            << "V " << V << " ep " << ep << " etp " << etp;
    }
}

TEST(Plan, UnevenRestsOfTheDispatchAreInTheTotal) {
  Config c = small_moe_config();
  c.model.num_local_experts = 8;  // 36 assignments: four experts have 5, four 4
  c.parallel.ep = 2;
  const std::size_t rows = 2 * 4 * static_cast<std::size_t>(36);  // ways, forward and backward, each rank's
  const std::size_t row = 24 * sizeof(float);
  const auto layers = static_cast<std::size_t>(c.model.num_hidden_layers);
  const Plan first = make_plan({c, {}, CpuOps::most_workspace}, 2, 0),
             last = make_plan({c, {}, CpuOps::most_workspace}, 2, 1);
  EXPECT_EQ(first.dispatch_total, rows * row * layers);
  EXPECT_EQ(last.dispatch_total, first.dispatch_total);
  EXPECT_EQ(first.dispatch.bytes + last.dispatch.bytes, first.dispatch_total);
  EXPECT_GT(first.dispatch.bytes, last.dispatch.bytes);
}

TEST(Plan, AStepOfManyMicrobatchesIsNotWalked) {
  Config c = small_moe_config();
  c.train.global_batch_size = c.train.micro_batch_size * 1'000'000;
  const Plan many = make_plan({c, {}, CpuOps::most_workspace}, 1);
  c.train.global_batch_size = c.train.micro_batch_size * 5;
  const Plan five = make_plan({c, {}, CpuOps::most_workspace}, 1);
  EXPECT_EQ(many.micro_batches, 1'000'000);
  EXPECT_NEAR(many.flops, five.flops * 200'000, many.flops * 1e-9);
}

TEST(Plan, LayoutsThatItNamesWork) {
  Config c = small_moe_config();
  c.train.seq_length = 8;
  c.train.global_batch_size = 16;
  c.parallel.tp = 4;  // K = 2
  try {
    (void)make_plan({c, {}, CpuOps::most_workspace}, 8);
    FAIL() << "no error";
  } catch (const InputError& e) {
    const std::string what = e.what(), marker = "for this model and batch: ";
    EXPECT_NE(what.find("num_key_value_heads"), std::string::npos) << what;
    ASSERT_NE(what.find(marker), std::string::npos) << what;
    std::string rest = what.substr(what.find(marker) + marker.size());
    int named = 0;
    for (int tp, ep, etp, n; std::sscanf(rest.c_str(), "tp=%d ep=%d etp=%d%n", &tp, &ep, &etp, &n) == 3; ++named) {
      c.parallel.tp = tp, c.parallel.ep = ep, c.parallel.etp = etp;
      EXPECT_NO_THROW((void)make_plan({c, {}, CpuOps::most_workspace}, 8)) << tp << " " << ep << " " << etp;
      rest.erase(0, std::min(rest.size(), static_cast<std::size_t>(n) + 2));
    }
    EXPECT_GE(named, 1) << what;
  }
}

TEST(Plan, SaysWhereNoLayoutWorks) {
  Config c = small_moe_config();  // 4 sequences over 3 ranks
  try {
    (void)make_plan({c, {}, CpuOps::most_workspace}, 3);
    FAIL() << "no error";
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("no layout of world=3 works"), std::string::npos) << e.what();
  }
}

TEST(Plan, UpcyclingNeedsMoreForAWhile) {
  Config c = small_moe_config();
  ModelConfig dense = c.model;
  dense.num_local_experts = 0;
  const Plan start = make_plan({c, dense, CpuOps::most_workspace}, 2);
  EXPECT_GT(start.upcycling_bytes, 0u);
  c.upcycle.at_step = 1;
  const Plan live = make_plan({c, dense, CpuOps::most_workspace}, 2);
  Config before = c;
  before.model = dense;
  // Both trainers at once, over the same communicators.
  const std::size_t collectives = collective_scratch_bytes(live.layout);
  EXPECT_EQ(live.upcycling_bytes, live.training_bytes() +
                                      make_plan({before, {}, CpuOps::most_workspace}, 2).training_bytes() -
                                      collectives + 2 * kLiveBufferElements * sizeof(float));
  EXPECT_EQ(live.peak_bytes(), live.upcycling_bytes);
}

// Compared with real arenas, on a mesh whose communicators have scratch.
TEST(Plan, AConversionHoldsBothTrainersAndOneOfWhatTheyShare) {
  Config moe = small_moe_config(), dense = moe;
  dense.model.num_local_experts = 0;
  moe.checkpoint.dir = dense.checkpoint.dir = "somewhere";
  const Rig rig;
  const Layout layout = make_layout(2, 1, 2, 1);
  CollectiveTable unused;
  const Mesh mesh = make_dry_mesh(layout, 0, unused);
  std::size_t arenas = 0;
  const auto classes_of = [&](const Config& c) {
    const Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    for (const Arena* a : {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer, &t.activations})
      arenas += a->capacity();
    return plan_trainer(c, mesh, *rig.ops);
  };
  std::map<std::string, std::size_t> got;
  std::size_t sum = 0;
  const auto before = classes_of(dense), after = classes_of(moe);
  for (const MemoryClass& m : conversion_memory(before, after)) {
    EXPECT_FALSE(got.contains(m.name)) << m.name;
    got[m.name] = m.bytes;
    sum += m.bytes;
  }
  EXPECT_FALSE(got.contains("checkpoint snapshot"));
  EXPECT_EQ(got["exchange buffers"], 2 * kLiveBufferElements * sizeof(float));
  EXPECT_GT(got["collectives"], 0u);
  EXPECT_EQ(got["collectives"], collective_scratch_bytes(layout));
  EXPECT_EQ(sum, arenas + got["collectives"] + got["exchange buffers"]);

  moe.upcycle.at_step = 1;
  moe.parallel.ep = 2;
  const Plan plan = make_plan({moe, dense.model, CpuOps::most_workspace}, 2);
  EXPECT_EQ(plan.upcycling_bytes, sum);
}

TEST(DryDevice, GivesAddressesThatCostNothing) {
  DryDevice device;
  const std::size_t much = std::size_t{4} << 40;
  void* p = device.allocate(much);
  EXPECT_EQ(device.in_use(), much);
  const auto stream = device.make_stream();
  int back = 1;
  device.copy_to_host(*stream, &back, static_cast<char*>(p) + much / 2, sizeof back);
  EXPECT_EQ(back, 0);
  device.release(p, much);
  EXPECT_EQ(device.in_use(), 0u);
  EXPECT_EQ(device.peak(), much);
  EXPECT_THROW(device.allocate(std::size_t{1} << 60), InputError);
}

}  // namespace
}  // namespace upcycle
