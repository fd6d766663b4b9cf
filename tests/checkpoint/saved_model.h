#pragma once
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/config/describe.h"
#include "data/files.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/checkpoint/writer.h"

namespace upcycle::test {

// Ragged on purpose: no power of two but the head size, a vocabulary that tp = 2 does not divide.
inline ModelConfig small_model(std::int64_t experts) {
  ModelConfig m;
  m.hidden_size = 24;
  m.intermediate_size = 20;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 6;
  m.num_key_value_heads = 2;
  m.head_dim = 4;
  m.vocab_size = 61;
  m.num_local_experts = experts;
  return m;
}

// Any 32 bits that are a number, subnormal ones among them: only a bitwise copy keeps them. (NaN and infinities are
// refused when they are read: here their highest exponent bit is cleared.)
inline float value_of(StateKind kind, const std::string& tensor, std::int64_t row, std::int64_t column) {
  std::uint64_t x = static_cast<std::uint64_t>(kind) + 1;
  for (const char c : tensor) x = (x ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  x = (x ^ static_cast<std::uint64_t>(row * 100003 + column)) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
  const auto bits = static_cast<std::uint32_t>(x >> 32);
  return std::bit_cast<float>((bits & 0x7f800000u) == 0x7f800000u ? bits & ~0x40000000u : bits);
}

inline std::vector<float> values_of(StateKind kind, const std::string& tensor, const Rectangle& part) {
  std::vector<float> values;
  for (std::int64_t r = 0; r < part.rows; ++r)
    for (std::int64_t c = 0; c < part.columns; ++c)
      values.push_back(value_of(kind, tensor, part.row + r, part.column + c));
  return values;
}

inline ::testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "the bits differ";
}

// What one rank of a layout would save.
struct RankState {
  std::vector<SavedPiece> pieces;
  std::map<std::string, std::int64_t> steps;
  std::vector<std::unique_ptr<std::vector<float>>> values;
};

inline RankState rank_state(const ModelConfig& model, const Layout& layout, int rank, int moments) {
  RankState s;
  const Coordinates at = coordinates_of(layout, rank);
  const ParamTable table = make_param_table(model, layout, at);
  for (const ParamRow& row : table.rows) s.steps[row.name] = row.expert >= 0 ? 3 + row.expert : 100;
  for (const OwnedPiece& p : owned_pieces(table, at, false))
    for (const StateKind kind : {StateKind::Master, StateKind::Moment1, StateKind::Moment2}) {
      if (static_cast<int>(kind) > moments) continue;
      s.values.push_back(std::make_unique<std::vector<float>>(values_of(kind, p.row->name, p.part)));
      s.pieces.push_back(
          {kind, p.row->name, p.row->rows, p.row->columns, p.row->is_vector, p.part, s.values.back()->data()});
    }
  return s;
}

inline CheckpointInfo some_info(const ModelConfig& model, std::int64_t step) {
  CheckpointInfo info;
  info.model = model;
  info.step = step;
  info.consumed_samples = 8 * step;
  info.tokens = 512 * step;
  info.flops = 1.25e9 / 3;
  info.wall_seconds = 0.1;
  info.init = "load dense/";
  const Config config;
  info.config = to_json(config);
  return info;
}

// Saves one rank's state; the first file that travels is the tokenizer.
inline void save_state(CheckpointWriter& w, CheckpointInfo info, const RankState& state,
                       const std::vector<std::string>& travel = {}) {
  info.optimizer_steps = state.steps;
  if (!travel.empty()) info.tokenizer = std::filesystem::path(travel[0]).filename();
  w.start(info, state.pieces, read_travelling(travel));
  w.finish();
}

// Saves as all ranks of `layout` would, one after the other in this process.
inline void save_as(const std::string& run, const ModelConfig& model, const Layout& layout, std::int64_t step,
                    int moments = 2) {
  Manifest m;
  m.info = some_info(model, step);
  m.info.layout = layout;
  make_folder(run);
  hdf5_thread().run([&] {
    for (int rank = 0; rank < layout.world; ++rank) {
      const RankState s = rank_state(model, layout, rank, moments);
      m.info.optimizer_steps.insert(s.steps.begin(), s.steps.end());
      for (auto& e : write_rank_files(run + "/" + step_folder_name(step) + ".tmp", step, rank, s.pieces))
        m.files.push_back(std::move(e));
    }
  });
  for (const ParamRow& row : make_global_table(model).rows)
    m.tensors.push_back({row.name, row.rows, row.columns, row.is_vector});
  publish_step(run, m);
}

inline void expect_state(Checkpoint& c, StateKind kind, const std::string& tensor, const Rectangle& part) {
  std::vector<float> out(static_cast<std::size_t>(part.size()), -1);
  c.read_state(kind, tensor, part, out.data());
  EXPECT_TRUE(same_bits(out, values_of(kind, tensor, part)))
      << tensor << " rows " << part.row << "+" << part.rows << " columns " << part.column << "+" << part.columns;
}

inline void expect_whole(Checkpoint& c, int moments = 2) {
  for (const auto& t : c.tensors())
    for (const StateKind kind : {StateKind::Master, StateKind::Moment1, StateKind::Moment2})
      if (static_cast<int>(kind) <= moments) expect_state(c, kind, t.name, {0, 0, t.rows, t.columns});
}

}  // namespace upcycle::test
