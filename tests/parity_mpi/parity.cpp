#include "tests/parity_mpi/parity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/error.h"
#include "parallel/model/transformer.h"
#include "parallel/train/step.h"

namespace upcycle::test {
namespace {

Tensor host(std::vector<double>& v) { return Tensor(v.data(), DType::F64, {static_cast<std::int64_t>(v.size())}); }

bool is_first() { return mpi_session().rank() == 0; }

// The first rank's values, on all.
template <class T>
void share(std::vector<T>& values) {
  const std::string bytes =
      host_world().broadcast_text({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}, 0);
  values.resize(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
}

std::vector<double> flat(const StepResult& r) {
  std::vector<double> v{r.loss, r.aux_loss, r.z_loss};
  for (const RouterMetrics& m : r.layers) {
    v.insert(v.end(), {m.aux, m.z, m.entropy, m.load_max_over_mean, static_cast<double>(m.assignments.size())});
    v.insert(v.end(), m.assignments.begin(), m.assignments.end());
  }
  return v;
}

StepResult result_of(const std::vector<double>& v) {
  StepResult r;
  r.loss = v[0], r.aux_loss = v[1], r.z_loss = v[2];
  for (auto at = v.begin() + 3; at != v.end();) {
    RouterMetrics m{at[0], at[1], at[2], at[3]};
    const auto E = static_cast<std::ptrdiff_t>(at[4]);
    m.assignments.assign(at + 5, at + 5 + E);
    r.layers.push_back(m);
    at += 5 + E;
  }
  return r;
}

Trainer trainer_of(const Rig& rig, const Config& config, const Mesh& mesh, const Fill& fill) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  fill(t);
  return t;
}

std::int64_t microbatches(const Config& c) { return c.train.global_batch_size / c.train.micro_batch_size; }

std::vector<std::int64_t> moe_layers(const ModelConfig& model) {
  std::vector<std::int64_t> layers;
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l)
    if (model.is_moe_layer(l)) layers.push_back(l);
  return layers;
}

}  // namespace

std::string Parallelism::text() const {
  return fmt::format("tp {} dp {} ep {} etp {}", tp, mpi_session().size() / tp, ep, etp);
}

std::vector<Parallelism> legal_layouts(const ModelConfig& model) {
  const int world = mpi_session().size();
  std::vector<Parallelism> all;
  for (int tp = 1; tp <= world; ++tp)
    for (const int etp : tp == 1 ? std::vector<int>{1} : std::vector<int>{1, tp})
      for (int ep = 1; ep <= world; ++ep) {
        if (!model.is_moe() && ep * etp > 1) continue;
        try {
          const Layout layout = make_layout(world, tp, ep, etp);
          for (int rank = 0; rank < world; ++rank) (void)sizes_of(model, layout, coordinates_of(layout, rank));
          all.push_back({tp, ep, etp});
        } catch (const InputError&) {  // not legal
        }
      }
  return all;
}

bool has_replicas(const ModelConfig& model, const Parallelism& p) {
  const int world = mpi_session().size();
  return world / p.tp > 1 || (model.is_moe() && world / (p.ep * p.etp) > 1);
}

Mesh make_test_mesh(const Rig& rig, const Parallelism& p) {
  return make_test_mesh(*rig.device, *rig.stream, p.tp, p.ep, p.etp);
}

Fill random_fill(double router_std) {
  return [router_std](Trainer& t) {
    ParamTable table = t.table();
    for (ParamRow& row : table.rows)
      if (row.name.ends_with("block_sparse_moe.gate.weight"))
        row.init_std = router_std;
      else if (row.initializer == Initializer::Zeros)
        row.initializer = Initializer::Normal;
    Staging staging(*t.device, *t.stream);
    initialize_weights(table, static_cast<std::uint64_t>(t.config.seed), staging, t.memory.weights.dense,
                       t.memory.weights.expert);
    masters_from_weights(t.optimizer, t.memory);
  };
}

Routing routing_of(Trainer& t, const FixedSequences& sequences) {
  const std::vector<std::int64_t> layers = moe_layers(t.config.model);
  const std::int64_t k = t.config.model.num_experts_per_tok, T = t.model->T(), all = microbatches(t.config);
  const std::int64_t mine = all / t.mesh->layout.dp, first = mine * t.mesh->at.dp;
  Routing routing{std::vector<std::int32_t>(layers.size() * static_cast<std::size_t>(all * T * k), -1),
                  std::vector<double>(static_cast<std::size_t>(all), std::numeric_limits<double>::infinity())};
  const auto n = static_cast<std::int64_t>(sequences.tokens.size());
  for (std::int64_t j = first; j < first + mine; ++j) {
    std::vector<std::int32_t> tokens, targets;
    for (std::int64_t i = 0; i < T; ++i) {
      tokens.push_back(sequences.tokens[static_cast<std::size_t>((j * T + i) % n)]);
      targets.push_back(sequences.targets[static_cast<std::size_t>((j * T + i) % n)]);
    }
    t.device->copy_from_host(*t.stream, t.batch.tokens.data, tokens.data(), t.batch.tokens.bytes());
    t.device->copy_from_host(*t.stream, t.batch.targets.data, targets.data(), t.batch.targets.bytes());
    t.documents.find(0, tokens);
    t.documents.put(*t.device, *t.stream, t.batch, 0);
    forward(*t.model, t.batch, 1);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::vector<std::int32_t> chosen = chosen_experts(t, layers[i]);
      const std::int64_t layer = j * static_cast<std::int64_t>(layers.size()) + static_cast<std::int64_t>(i);
      std::copy(chosen.begin(), chosen.end(),
                routing.chosen.begin() + layer * T * k + t.mesh->at.tp * t.model->T_local() * k);
      // A forward under recompute keeps only the last layer's probabilities.
      double& gap = routing.gaps[static_cast<std::size_t>(j)];
      if (!t.model->pass.recompute.layer) gap = std::min(gap, smallest_gap(t, layers[i]));
    }
  }
  return routing;
}

Reference one_rank_reference(const Config& config, const Fill& fill, const FixedSequences& sequences) {
  const Rig rig = cpu_rig();
  const Mesh single = single_mesh(rig);
  const ParamTable table = make_global_table(config.model);
  Reference r;
  r.gradients.resize(table.rows.size());
  std::vector<double> numbers;
  std::vector<double> gap(1);
  if (is_first()) {
    Config alone = config;
    alone.train.recompute = "none";
    alone.train.zero_stage = 1;
    alone.train.gradient_dtype = "fp32";
    alone.parallel = {};
    Trainer t = trainer_of(rig, alone, single, fill);
    Routing routing = routing_of(t, sequences);
    r.routing = std::move(routing.chosen);
    gap[0] = *std::min_element(routing.gaps.begin(), routing.gaps.end());
    numbers = flat(compute_gradients(t, sequences.source()));
    for (std::size_t i = 0; i < table.rows.size(); ++i) r.gradients[i] = gradient_of(t, t.table().rows[i]);
  }
  share(numbers);
  share(gap);
  share(r.routing);
  r.result = result_of(numbers);
  r.gap = gap[0];
  for (std::vector<float>& g : r.gradients) {
    share(g);
    r.norms.push_back(norm(g));
    r.norm += r.norms.back() * r.norms.back();
  }
  r.norm = std::sqrt(r.norm);
  return r;
}

// Walks the global table, because this rank's lacks the experts of others.
std::vector<double> gradient_differences(const Trainer& t, const std::vector<std::vector<float>>& gradients) {
  const ParamTable table = make_global_table(t.config.model);
  UPCYCLE_CHECK(table.rows.size() == gradients.size(), "{} rows and {} gradients", table.rows.size(), gradients.size());
  std::vector<double> sums(2 * table.rows.size());  // squared difference and elements, per row
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, false)) {
    const std::size_t at = table.places.at(p.row->name);
    const std::vector<float>& g0 = gradients[at];
    const std::vector<float> g = floats_of(t, gradient_piece(t.table(), t.memory, p));
    for (std::int64_t i = 0; i < p.part.size(); ++i) {
      const std::int64_t r = p.part.row + i / p.part.columns, c = p.part.column + i % p.part.columns;
      const double difference =
          double(g[static_cast<std::size_t>(i)]) - g0[static_cast<std::size_t>(r * p.row->columns + c)];
      sums[2 * at] += difference * difference;
    }
    sums[2 * at + 1] += static_cast<double>(p.part.size());
  }
  wait(host_world().all_reduce(host(sums)));
  std::vector<double> differences;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    EXPECT_EQ(sums[2 * i + 1], static_cast<double>(table.rows[i].global_size())) << table.rows[i].name;
    differences.push_back(std::sqrt(sums[2 * i]));
  }
  return differences;
}

void expect_parity(Trainer& t, const StepResult& got, const Reference& want) {
  EXPECT_NEAR(got.loss, want.result.loss, 1e-6 * want.result.loss);
  EXPECT_NEAR(got.aux_loss, want.result.aux_loss, 1e-6 * (1 + want.result.aux_loss));
  EXPECT_NEAR(got.z_loss, want.result.z_loss, 1e-6 * (1 + want.result.z_loss));
  ASSERT_EQ(got.layers.size(), want.result.layers.size());
  for (std::size_t l = 0; l < got.layers.size(); ++l) {
    EXPECT_NEAR(got.layers[l].load_max_over_mean, want.result.layers[l].load_max_over_mean, 1e-9);
    EXPECT_NEAR(got.layers[l].entropy, want.result.layers[l].entropy, 1e-6);
    EXPECT_EQ(got.layers[l].assignments, want.result.layers[l].assignments);
  }

  const ParamTable table = make_global_table(t.config.model);
  const std::vector<double> differences = gradient_differences(t, want.gradients);
  for (std::size_t i = 0; i < table.rows.size(); ++i)
    EXPECT_LE(differences[i], allowed_distance(want.norms[i], want.norm))
        << table.rows[i].name << ", norm " << want.norms[i] << " of " << want.norm;
  EXPECT_NEAR(clipped_norm(t), want.norm, 1e-5 * want.norm);
}

void compare_layout(const Config& config, const Parallelism& p, const Fill& fill, const FixedSequences& sequences,
                    const Reference& want, const Check& check) {
  SCOPED_TRACE(p.text());
  const Rig rig;
  const Mesh mesh = make_test_mesh(rig, p);
  Trainer t = trainer_of(rig, config, mesh, fill);
  const Routing routing = routing_of(t, sequences);
  // On all ranks or none, since the rest is collective.
  ASSERT_EQ(different_choices(t, routing, want), 0);
  expect_parity(t, compute_gradients(t, sequences.source()), want);
  if (check) check(t);
}

void compare_all_layouts(const Config& config, const Fill& fill, const FixedSequences& sequences, const Check& check) {
  const Reference want = one_rank_reference(config, fill, sequences);
  for (const Parallelism& p : legal_layouts(config.model)) compare_layout(config, p, fill, sequences, want, check);
}

double different_choices(const Trainer& t, const Routing& routing, const Reference& want) {
  UPCYCLE_CHECK(routing.chosen.size() == want.routing.size(), "{} choices, not {}", routing.chosen.size(),
                want.routing.size());
  double differ = 0;
  for (std::size_t i = 0; i < routing.chosen.size(); ++i)
    differ += routing.chosen[i] >= 0 && routing.chosen[i] != want.routing[i] ? 1 : 0;
  return t.mesh->world->sum_of(differ);
}

FixedSequences clear_sequences(const Config& config, const Fill& fill, std::int64_t count, double gap) {
  const Rig rig = cpu_rig();
  const Mesh single = single_mesh(rig);
  Config alone = config;
  alone.train.recompute = "none";
  alone.train.zero_stage = 1;
  alone.train.gradient_dtype = "fp32";
  alone.train.global_batch_size = count;
  alone.parallel = {};
  const std::int64_t S = config.train.seq_length, T = S * config.train.micro_batch_size;
  FixedSequences found{S, {}, {}};
  if (is_first()) {
    Trainer t = trainer_of(rig, alone, single, fill);
    for (std::uint64_t seed = 1; static_cast<std::int64_t>(found.tokens.size()) < count * S; ++seed) {
      UPCYCLE_CHECK(seed < 100, "too few of the sequences have gaps above {}", gap);
      const FixedSequences some = random_sequences(count, S, config.model.vocab_size, seed);
      const Routing routing = routing_of(t, some);
      for (std::size_t j = 0; j < routing.gaps.size(); ++j) {
        if (routing.gaps[j] <= gap || static_cast<std::int64_t>(found.tokens.size()) == count * S) continue;
        const auto at = static_cast<std::ptrdiff_t>(j) * T;
        found.tokens.insert(found.tokens.end(), some.tokens.begin() + at, some.tokens.begin() + at + T);
        found.targets.insert(found.targets.end(), some.targets.begin() + at, some.targets.begin() + at + T);
      }
    }
  }
  share(found.tokens);
  share(found.targets);
  return found;
}

}  // namespace upcycle::test
