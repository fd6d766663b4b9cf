#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/train/rig.h"

namespace upcycle::test {

// The pieces of `part` hold the values that `whole`, a trainer of one rank, has there.
inline void expect_pieces_of(const Trainer& part, const Trainer& whole) {
  const TrainedState all = state_of(whole);
  const int moments = part.config.train.moments();
  for (const OwnedPiece& p : owned_pieces(part.table(), part.mesh->at, true)) {
    const TrainedState::Parameter& parameter = all.parameters.at(p.row->name);
    const auto compare = [&](StateKind kind, const std::vector<float>& values, const char* what) {
      const std::vector<float> mine = owned_floats(part, kind, p);
      bool same = true;
      for (std::int64_t i = 0; i < p.part.size(); ++i) {
        const std::int64_t r = p.part.row + i / p.part.columns, c = p.part.column + i % p.part.columns;
        same = same && mine[static_cast<std::size_t>(i)] == values[static_cast<std::size_t>(r * p.row->columns + c)];
      }
      EXPECT_TRUE(same) << what << " of " << p.row->name;
    };
    compare(StateKind::Master, parameter.master, "masters");
    if (moments > 0) compare(StateKind::Moment1, parameter.m, "first moments");
    if (moments > 1) compare(StateKind::Moment2, parameter.v, "second moments");
    EXPECT_EQ(part.optimizer.row_steps[static_cast<std::size_t>(p.row - part.table().rows.data())], parameter.steps);
  }
  EXPECT_EQ(part.step, all.step);
  EXPECT_EQ(part.consumed_samples, all.consumed_samples);
  EXPECT_EQ(part.tokens, all.tokens);
  EXPECT_EQ(part.flops, all.flops);
}

}  // namespace upcycle::test
