#include <fmt/core.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/reshard.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/model/weights.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/model_forms.h"
#include "tests/mpi_tests.h"
#include "tests/reshard_mpi/part_mesh.h"
#include "tests/shared_folder.h"
#include "tests/train/rig.h"

// A trainer of one layout saves, a trainer of another loads and saves again, all by the code that training uses; and
// `reshard` makes the same files without either.
namespace upcycle::test {
namespace {

struct Shape {
  int world, tp, ep, etp;
  const char* dtype;  // of the trainer: files hold fp32 either way
};
const std::vector<Shape> shapes = {
    {1, 1, 1, 1, "fp32"}, {2, 2, 1, 1, "bf16"}, {2, 1, 2, 1, "fp32"}, {2, 2, 1, 2, "fp32"},
    {4, 1, 1, 1, "bf16"}, {4, 2, 2, 1, "fp32"}, {4, 2, 2, 2, "bf16"}, {4, 4, 4, 1, "bf16"},
    {8, 2, 4, 1, "fp32"}, {8, 2, 2, 2, "bf16"}, {8, 1, 8, 1, "bf16"}, {8, 4, 2, 4, "fp32"},
};

Layout layout_of(const Shape& s) { return make_layout(s.world, s.tp, s.ep, s.etp); }
std::string name_of(const Shape& s) {
  return fmt::format("world{}_tp{}_ep{}_etp{}_{}", s.world, s.tp, s.ep, s.etp, s.dtype);
}

// A dense layer and one of experts; V = 61, which neither tp divides; vectors that are cut and vectors that are whole.
Config config_of(const Shape& s) {
  Config c = small_moe_config();
  c.dtype = s.dtype;
  c.model.vocab_size = 61;
  c.model.num_attention_heads = 8;
  c.model.num_key_value_heads = 4;
  c.model.num_local_experts = 8;
  c.model.num_experts_per_tok = 2;
  c.model.moe_every_n_layers = 2;
  c.model.shared_expert = true;
  c.model = kBiasedPostNorms.of(c.model);
  c.train.seq_length = 8;
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 8;
  return c;
}

std::int64_t steps_of(const std::string& tensor) {
  return 1 + static_cast<std::int64_t>(std::hash<std::string>{}(tensor) % 1000);
}

// Arbitrary bits in masters and moments, another step count for each parameter.
void fill(Trainer& t) {
  const auto put = [](const Tensor& to, StateKind kind, const OwnedPiece& p) {
    const std::vector<float> values = values_of(kind, p.row->name, p.part);
    std::memcpy(to.data, values.data(), values.size() * sizeof(float));
  };
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {
    put(master_piece(t.memory, p), StateKind::Master, p);
    put(shard_piece_of(t.memory.m, p), StateKind::Moment1, p);
    put(shard_piece_of(t.memory.v, p), StateKind::Moment2, p);
  }
  for (std::size_t i = 0; i < t.optimizer.row_steps.size(); ++i)
    t.optimizer.row_steps[i] = steps_of(t.table().rows[i].name);
  t.step = 7;
  t.consumed_samples = 56;
  t.tokens = 448;
  t.flops = 1e9 / 3;
  t.wall_seconds = 0.1;
}

// Every weight of the rank, owned or not, is the rounding of its master.
void expect_weights(const Trainer& t) {
  for (const ParamRow& row : t.table().rows) {
    const Tensor w = view_row(row, t.memory.weights.dense, t.memory.weights.expert);
    const std::vector<float> values = values_of(StateKind::Master, row.name, row.part);
    bool same = true;
    for (std::size_t i = 0; i < values.size(); ++i)
      same = same &&
             (w.dtype == DType::BF16
                  ? std::bit_cast<std::uint16_t>(w.as<bf16>()[i]) == std::bit_cast<std::uint16_t>(to_bf16(values[i]))
                  : std::bit_cast<std::uint32_t>(w.as<float>()[i]) == std::bit_cast<std::uint32_t>(values[i]));
    EXPECT_TRUE(same) << row.name << " on rank " << t.mesh->rank;
  }
}

void save(Trainer& t, const std::string& run, const std::vector<std::string>& travel) {
  Snapshot snapshot = make_snapshot(t);
  CheckpointInfo info = checkpoint_info(t);
  info.init = "load dense/";
  info.config = to_json(Config{});
  info.tokenizer = "t.model";
  CheckpointWriter writer(run, *t.mesh->world, 0);
  writer.start(info, take_snapshot(t, snapshot), read_travelling(travel));
  writer.finish();
}

void expect_saved(const std::string& run, const Layout& layout) {
  const auto c = open_checkpoint(run);
  EXPECT_EQ(c->info().layout.tp, layout.tp);
  EXPECT_EQ(c->info().layout.edp, layout.edp);
  expect_whole(*c);
  for (const auto& t : c->tensors()) EXPECT_EQ(c->info().optimizer_steps.at(t.name), steps_of(t.name)) << t.name;
}

std::string manifest_of(const std::string& run) {
  return manifest_text(read_manifest(run + "/" + read_latest(run)));  // with size and hash of every file
}

void load_and_save(const Shape& from, const std::vector<Shape>& to) {
  const Mesh all = make_test_mesh();
  SharedFolder folder(*all.world);
  const std::string source = folder.path + "/" + name_of(from), tokenizer = folder.path + "/t.model";
  if (all.rank == 0) folder.own->write("t.model", "no tokenizer");
  const Rig rig;
  const auto part = make_part_mesh(layout_of(from));
  if (part) {
    Trainer t = make_trainer(config_of(from), *part, *rig.device, *rig.stream, *rig.ops);
    fill(t);
    save(t, source, {tokenizer});
  }
  all.world->barrier();
  for (const Shape& shape : to) {
    SCOPED_TRACE(name_of(from) + " to " + name_of(shape));
    const Layout layout = layout_of(shape);
    const std::string native = folder.path + "/to_" + name_of(shape), streamed = native + "_streamed";
    const auto mesh = make_part_mesh(layout);
    if (mesh) {
      Trainer t = make_trainer(config_of(shape), *mesh, *rig.device, *rig.stream, *rig.ops);
      const auto checkpoint = open_checkpoint(source, true, mesh->world.get());
      restore_trainer(t, *checkpoint);
      expect_weights(t);
      save(t, native, travelling_files(checkpoint->directory()));
    }
    if (all.rank == 0) {
      expect_saved(native, layout);
      reshard(*open_checkpoint(source), streamed, layout);
      EXPECT_EQ(manifest_of(streamed), manifest_of(native));
      EXPECT_EQ(open_checkpoint(streamed)->info().consumed_samples, 56);  // hashes every file
      std::filesystem::remove_all(native);
      std::filesystem::remove_all(streamed);
    }
    all.world->barrier();
  }
}

class Spread : public ::testing::TestWithParam<std::size_t> {};
class FullPairs : public ::testing::TestWithParam<std::size_t> {};

// Each layout is once a source and once a target; the smallest and the largest are also paired in both directions.
TEST_P(Spread, LoadsAndSavesTheSameBits) {
  const std::size_t i = GetParam(), n = shapes.size();
  std::vector<Shape> to{shapes[(i + 5) % n]};
  if (i == 0) to.push_back(shapes[n - 1]);
  if (i == n - 1) to.push_back(shapes[0]);
  load_and_save(shapes[i], to);
}

TEST_P(FullPairs, LoadsAndSavesTheSameBits) {
  std::vector<Shape> to;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    if (i != GetParam()) to.push_back(shapes[i]);
  load_and_save(shapes[GetParam()], to);
}

const auto each = ::testing::Range(std::size_t{0}, shapes.size());
const auto name = [](const ::testing::TestParamInfo<std::size_t>& p) { return name_of(shapes[p.param]); };
INSTANTIATE_TEST_SUITE_P(, Spread, each, name);
INSTANTIATE_TEST_SUITE_P(, FullPairs, each, name);

}  // namespace
}  // namespace upcycle::test
