#include "parallel/model/params.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "core/config/parse.h"
#include "core/error.h"
#include "parallel/model/weights.h"
#include "tests/source_root.h"

namespace upcycle {
namespace {

enum class Kind { Dense, Moe, Biases, WholeNorms };

// Ragged: a vocabulary that neither 2 nor 3 divides, few powers of two.
ModelConfig ragged_model(Kind kind) {
  ModelConfig m;
  m.hidden_size = 14;
  m.intermediate_size = 18;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 12;
  m.num_key_value_heads = 6;
  m.head_dim = 2;
  m.vocab_size = 37;
  m.initializer_range = 0.3;
  if (kind == Kind::Biases) {
    m.attention_bias = "all";
    m.mlp_bias = true;
    m.qk_norm = "head";
  }
  if (kind == Kind::WholeNorms) m.qk_norm = "full";
  if (kind != Kind::Moe) return m;
  m.num_local_experts = 4;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 6;
  m.moe_every_n_layers = 2;
  m.shared_expert = true;
  return m;
}

// tp 1, 2, 3 x dp 1, 2, 4 x ep 1, 2, 4 x etp 1, tp, where they fit together.
std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const int tp : {1, 2, 3})
    for (const int dp : {1, 2, 4})
      for (const int ep : {1, 2, 4})
        for (const int etp : tp == 1 ? std::vector{1} : std::vector{1, tp})
          if (tp * dp % (ep * etp) == 0) all.push_back(make_layout(tp * dp, tp, ep, etp));
  return all;
}

std::string text(const Layout& l) {
  return fmt::format("tp {} dp {} ep {} etp {} edp {}", l.tp, l.dp, l.ep, l.etp, l.edp);
}

class Params : public ::testing::TestWithParam<Kind> {
 protected:
  ModelConfig model = ragged_model(GetParam());
  ParamTable global = make_global_table(model);
};

TEST_P(Params, ARowIsFoundByItsNameAndByItsRole) {
  for (const ParamRow& row : global.rows) {
    EXPECT_EQ(global.find(row.name), &row);
    EXPECT_EQ(global.find(row.role, row.layer, row.expert), &row) << row.name;
  }
  EXPECT_EQ(global.find(ParamRole::Gate, 1) == nullptr, model.is_moe());  // layer 1 has experts, layer 0 an MLP
  EXPECT_NE(global.find(ParamRole::Gate, 0), nullptr);
  EXPECT_EQ(global.find(ParamRole::Gate, 2), nullptr);
}

TEST_P(Params, OwnedPiecesTileEveryParameterOnce) {
  for (const Layout& layout : layouts()) {
    std::map<std::string, std::vector<int>> owners;
    for (const ParamRow& row : global.rows) owners[row.name].resize(static_cast<std::size_t>(row.global_size()));
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      for (const OwnedPiece& p : owned_pieces(table, at, false)) {
        std::vector<int>& count = owners.at(p.row->name);
        for (std::int64_t r = 0; r < p.part.rows; ++r)
          for (std::int64_t c = 0; c < p.part.columns; ++c)
            ++count.at(static_cast<std::size_t>((p.part.row + r) * p.row->columns + p.part.column + c));
      }
    }
    for (const auto& [name, count] : owners)
      EXPECT_TRUE(std::all_of(count.begin(), count.end(), [](int n) { return n == 1; }))
          << name << ", " << text(layout);
  }
}

TEST_P(Params, WithReplicasTheGroupHoldsEachPartOnce) {
  for (const Layout& layout : layouts()) {
    std::map<std::tuple<int, int, int, std::string>, std::int64_t> held;  // by one tp rank, over its replicas
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      for (const OwnedPiece& p : owned_pieces(table, at, true)) {
        const bool dense = p.row->group == ParamGroup::Dense;
        held[{dense ? at.tp : -1, dense ? -1 : at.ep, dense ? -1 : at.etp, p.row->name}] += p.part.size();
      }
    }
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      for (const ParamRow& row : make_param_table(model, layout, at).rows) {
        const bool dense = row.group == ParamGroup::Dense;
        EXPECT_EQ((held[{dense ? at.tp : -1, dense ? -1 : at.ep, dense ? -1 : at.etp, row.name}]), row.size())
            << row.name << ", " << text(layout);
      }
    }
  }
}

// tp ranks of one dp rank own the same stretches of what is replicated over tp: these are summed in place.
TEST_P(Params, TpSiblingsOwnTheSamePartsOfReplicatedRows) {
  const auto parts = [&](const Layout& layout, int rank) {
    const Coordinates at = coordinates_of(layout, rank);
    const ParamTable table = make_param_table(model, layout, at);
    std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> all;
    for (const OwnedPiece& p : owned_pieces(table, at, true))
      if (p.row->replicated_over_tp) all.emplace_back(p.row->name, p.flat, p.part.size());
    return all;
  };
  for (const Layout& layout : layouts())
    for (int rank = 0; rank < layout.world; ++rank)
      EXPECT_EQ(parts(layout, rank), parts(layout, rank / layout.tp * layout.tp)) << text(layout);
}

TEST_P(Params, AFlatRangeCutsAMatrixInAtMostThree) {
  int most = 0;
  for (const Layout& layout : layouts()) {
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      std::map<std::string, int> cuts;
      for (const OwnedPiece& p : owned_pieces(table, at, true)) most = std::max(most, ++cuts[p.row->name]);
    }
  }
  EXPECT_EQ(most, 3);
}

// A piece's place in the flat buffer is where its elements are, and no two places overlap.
TEST_P(Params, PiecesLieInTheirBuffers) {
  for (const Layout& layout : layouts()) {
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      std::map<ParamGroup, std::vector<int>> shard, words;
      for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
        shard[g].resize(static_cast<std::size_t>(table.group(g).shard_size)),
            words[g].resize(static_cast<std::size_t>(bit_words(table, g)));
      for (const OwnedPiece& p : owned_pieces(table, at, true)) {
        const ParamRow& row = *p.row;
        EXPECT_EQ(p.flat,
                  row.offset + (p.part.row - row.part.row) * row.part.columns + p.part.column - row.part.column);
        if (p.part.rows > 1) {
          EXPECT_EQ(p.part.columns, row.part.columns);
        }
        for (std::int64_t i = 0; i < p.part.size(); ++i) ++shard[row.group].at(static_cast<std::size_t>(p.shard + i));
        for (std::int64_t i = 0; i < (p.part.size() + 31) / 32; ++i)
          ++words[row.group].at(static_cast<std::size_t>(p.words + i));
      }
      for (const auto& all : {shard, words})
        for (const auto& [group, count] : all)
          EXPECT_TRUE(std::all_of(count.begin(), count.end(), [](int n) { return n <= 1; })) << text(layout);
    }
  }
}

TEST_P(Params, InitialWeightsAreTheSameOnEveryLayout) {
  const auto draw = [&](const ParamTable& table, std::vector<float>& dense, std::vector<float>& expert) {
    dense.assign(static_cast<std::size_t>(table.dense.size), -7);
    expert.assign(static_cast<std::size_t>(table.expert.size), -7);
    Staging host;
    initialize_weights(table, 5, host, Tensor(dense.data(), DType::F32, {table.dense.size}),
                       Tensor(expert.data(), DType::F32, {table.expert.size}));
  };
  std::vector<float> dense, expert;
  draw(global, dense, expert);
  double sum = 0, squares = 0;
  const ParamRow& embedding = global.rows.front();
  for (std::int64_t i = 0; i < embedding.size(); ++i) {
    sum += dense[static_cast<std::size_t>(embedding.offset + i)];
    squares += std::pow(dense[static_cast<std::size_t>(embedding.offset + i)], 2);
  }
  EXPECT_NEAR(sum / embedding.size(), 0, 0.05);
  EXPECT_NEAR(std::sqrt(squares / embedding.size()), 0.3, 0.05);

  for (const Layout& layout : layouts()) {
    for (int rank = 0; rank < layout.world; ++rank) {
      const ParamTable table = make_param_table(model, layout, coordinates_of(layout, rank));
      std::vector<float> my_dense, my_expert;
      draw(table, my_dense, my_expert);
      for (const ParamRow& row : table.rows) {
        const ParamRow* whole = global.find(row.name);
        ASSERT_NE(whole, nullptr) << row.name;
        const std::vector<float>& mine = row.group == ParamGroup::Dense ? my_dense : my_expert;
        const std::vector<float>& all = row.group == ParamGroup::Dense ? dense : expert;
        bool same = true;
        for (std::int64_t r = 0; r < row.part.rows; ++r)
          for (std::int64_t c = 0; c < row.part.columns; ++c)
            same = same && mine[static_cast<std::size_t>(row.offset + r * row.part.columns + c)] ==
                               all[static_cast<std::size_t>(whole->offset + (row.part.row + r) * row.columns +
                                                            row.part.column + c)];
        EXPECT_TRUE(same) << row.name << ", " << text(layout);
      }
    }
  }
}

std::string kind_name(const ::testing::TestParamInfo<Kind>& info) {
  constexpr const char* names[] = {"Dense", "Moe", "Biases", "WholeNorms"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Models, Params, ::testing::Values(Kind::Dense, Kind::Moe, Kind::Biases, Kind::WholeNorms),
                         kind_name);

// H 14, F 18, N 12, K 6, D 2, L 2, tp 2.
TEST(ParamTable, VectorsAreCutWithTheRowsTheyGoWith) {
  ModelConfig model = ragged_model(Kind::Biases);
  const Layout layout = make_layout(2, 2, 1, 1);
  const auto part = [&](ParamRole role) {
    const ParamTable table = make_param_table(model, layout, coordinates_of(layout, 1));
    const ParamRow* row = table.find(role, 1);
    EXPECT_NE(row, nullptr);
    EXPECT_TRUE(row->is_vector);
    EXPECT_FALSE(row->weight_decay) << row->name;
    EXPECT_EQ(row->replicated_over_tp, row->part.columns == row->columns) << row->name;
    return row->part;
  };
  EXPECT_EQ(part(ParamRole::QueryBias), (Rectangle{0, 12, 1, 12}));
  EXPECT_EQ(part(ParamRole::KeyBias), (Rectangle{0, 6, 1, 6}));
  EXPECT_EQ(part(ParamRole::ValueBias), (Rectangle{0, 6, 1, 6}));
  EXPECT_EQ(part(ParamRole::AttentionOutBias), (Rectangle{0, 0, 1, 14}));
  EXPECT_EQ(part(ParamRole::GateBias), (Rectangle{0, 9, 1, 9}));
  EXPECT_EQ(part(ParamRole::UpBias), (Rectangle{0, 9, 1, 9}));
  EXPECT_EQ(part(ParamRole::DownBias), (Rectangle{0, 0, 1, 14}));
  EXPECT_EQ(part(ParamRole::QueryNorm), (Rectangle{0, 0, 1, 2}));
  EXPECT_EQ(part(ParamRole::KeyNorm), (Rectangle{0, 0, 1, 2}));
  // Per layer beside the weights: q, k, v 24 + 12 + 12, o 14, gate and up 36, down 14, norms of heads 4.
  EXPECT_EQ(count_parameters(model).total, count_parameters(ragged_model(Kind::Dense)).total + 2 * 116);
  EXPECT_EQ(training_flops_per_token(model, 9), training_flops_per_token(ragged_model(Kind::Dense), 9));
  model.qk_norm = "full";
  EXPECT_EQ(part(ParamRole::QueryNorm), (Rectangle{0, 12, 1, 12}));
  EXPECT_EQ(part(ParamRole::KeyNorm), (Rectangle{0, 6, 1, 6}));
  model.attention_bias = "qkv";
  EXPECT_EQ(make_global_table(model).find(ParamRole::AttentionOutBias, 0), nullptr);
}

TEST(ParamTable, VocabularyIsPaddedInMemoryOnly) {
  const ModelConfig model = ragged_model(Kind::Dense);
  const Layout layout = make_layout(3, 3, 1, 1);
  std::int64_t rows = 0;
  for (int rank = 0; rank < 3; ++rank) {
    const ParamTable table = make_param_table(model, layout, coordinates_of(layout, rank));
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      const ParamRow* row = table.find(name);
      ASSERT_NE(row, nullptr);
      EXPECT_EQ(row->rows, 37);
      EXPECT_EQ(row->memory_rows, 13);
      EXPECT_EQ(row->part, (Rectangle{13 * rank, 0, rank < 2 ? 13 : 11, 14}));
    }
    rows += table.find("lm_head.weight")->part.rows;
  }
  EXPECT_EQ(rows, 37);
}

// Four words on three ranks: the last holds only padding.
TEST(ParamTable, ARankMayHoldNoWordAtAll) {
  ModelConfig model = ragged_model(Kind::Dense);
  model.vocab_size = 4;
  const Layout layout = make_layout(3, 3, 1, 1);
  const ParamTable table = make_param_table(model, layout, coordinates_of(layout, 2));
  EXPECT_EQ(table.find("lm_head.weight")->size(), 0);
  EXPECT_EQ(table.find("lm_head.weight")->memory_rows, 2);
  for (const OwnedPiece& p : owned_pieces(table, coordinates_of(layout, 2), false)) EXPECT_GT(p.part.size(), 0);
}

TEST(ParamTable, SizesThatDoNotDivideAreNamed) {
  const auto message = [](const ModelConfig& model, int tp, int ep) {
    try {
      const Layout layout = make_layout(tp * ep, tp, ep, 1);
      (void)make_param_table(model, layout, coordinates_of(layout, 0));
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  ModelConfig model = ragged_model(Kind::Moe);
  EXPECT_NE(message(model, 12, 1).find("num_key_value_heads = 6"), std::string::npos);
  EXPECT_NE(message(model, 4, 1).find("num_key_value_heads = 6"), std::string::npos);
  EXPECT_NE(message(model, 1, 3).find("num_local_experts = 4"), std::string::npos);
  model.intermediate_size = 19;
  EXPECT_NE(message(model, 2, 1).find("intermediate_size = 19"), std::string::npos);
}

// By hand: H 24, F 20, L 2, N 4, K 2, D 6, V 37, S 9.
ModelConfig counted_model() {
  ModelConfig m;
  m.hidden_size = 24;
  m.intermediate_size = 20;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.head_dim = 6;
  m.vocab_size = 37;
  return m;
}

TEST(CountParameters, DenseByHand) {
  ModelConfig m = counted_model();
  // Per layer: norms 2*24, q and o 2*24*24, k and v 2*12*24, MLP 3*20*24: 3216. Outside: 24 and 37*24 = 888 per table.
  EXPECT_EQ(count_parameters(m).total, 2 * 3216 + 24 + 2 * 888);
  EXPECT_EQ(count_parameters(m).active, count_parameters(m).total);
  m.tie_word_embeddings = true;
  EXPECT_EQ(count_parameters(m).total, 2 * 3216 + 24 + 888);
}

TEST(CountParameters, MoeByHand) {
  ModelConfig m = counted_model();
  m.num_local_experts = 4;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 10;
  m.moe_every_n_layers = 2;  // only layer 1: 4 experts of 3*10*24 = 720 and a router of 4*24, for the MLP's 1440
  EXPECT_EQ(count_parameters(m).total, 8232 - 1440 + 4 * 720 + 96);
  EXPECT_EQ(count_parameters(m).active, 8232 - 1440 + 3 * 720 + 96);
  m.shared_expert = true;
  EXPECT_EQ(count_parameters(m).total, 8232 + 4 * 720 + 96);
  EXPECT_EQ(count_parameters(m).active, 8232 + 3 * 720 + 96);
}

TEST(TrainingFlops, ByHand) {
  ModelConfig m = counted_model();
  // 6 per weight of a product: 2 layers of 3168 and the output table; attention 6*2*9*4*6.
  EXPECT_EQ(training_flops_per_token(m, 9), 6 * (2 * 3168 + 888) + 2592);
  m.tie_word_embeddings = true;
  EXPECT_EQ(training_flops_per_token(m, 9), 6 * (2 * 3168 + 888) + 2592);
  m.num_local_experts = 4;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 10;
  EXPECT_EQ(training_flops_per_token(m, 9), 6 * (2 * (3168 - 1440 + 3 * 720 + 96) + 888) + 2592);
}

TEST(TrainingFlops, ByHandAsThePaperCounts) {
  ModelConfig m = counted_model();
  // Attention 12 * 2 * 24 * 9, whatever the heads' size; the router's 96 per layer are left out.
  EXPECT_EQ(training_flops_per_token(m, 9, FlopsCount::Paper), 6 * (2 * 3168 + 888) + 5184);
  m.num_local_experts = 4;
  m.num_experts_per_tok = 3;
  m.moe_intermediate_size = 10;
  EXPECT_EQ(training_flops_per_token(m, 9, FlopsCount::Paper), 6 * (2 * (3168 - 1440 + 3 * 720) + 888) + 5184);
  m.head_dim = 12;  // q, k, v and o twice as large: 2*24*48 and 2*24*24
  m.tie_word_embeddings = true;
  EXPECT_EQ(training_flops_per_token(m, 9, FlopsCount::Paper), 6 * (2 * (3456 + 3 * 720) + 888) + 5184);
}

// Tokens of the upcycled model for one of the dense model's, at equal FLOPs.
double token_ratio(const std::string& size, FlopsCount count) {
  const std::string start = (tests_root().parent_path() / "launch/configs/paper_").string() + size;
  const Config dense = parse_config(start + "_dense.json", {}), moe = parse_config(start + "_moe.json", {});
  return training_flops_per_token(dense.model, dense.train.seq_length, count) /
         training_flops_per_token(moe.model, moe.train.seq_length, count);
}

TEST(TrainingFlops, GiveThePapersTokenRatios) {
  EXPECT_NEAR(token_ratio("436m", FlopsCount::Paper), 0.750, 0.0005);
  EXPECT_NEAR(token_ratio("1.4b", FlopsCount::Paper), 0.681, 0.0005);
  EXPECT_NEAR(token_ratio("436m", FlopsCount::Causal), 0.711, 0.0005);
  EXPECT_NEAR(token_ratio("1.4b", FlopsCount::Causal), 0.652, 0.0005);
}

}  // namespace
}  // namespace upcycle
