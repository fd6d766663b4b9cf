#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "parallel/model/arrivals.h"
#include "tests/train/rig.h"

namespace upcycle::test {

// Every byte that this rank keeps from step to step, by the buffer that it lies in; comparable exactly.
struct RawState {
  std::vector<std::pair<std::string, std::vector<char>>> buffers;
  std::vector<std::int64_t> row_steps;
  std::int64_t step = 0, tokens = 0;
  double flops = 0;
};

inline RawState raw_state(Trainer& t) {
  RawState s;
  t.optimizer.arrivals->wait_all(*t.stream);
  t.stream->synchronize();
  const auto add = [&](const char* name, const FlatPair& pair) {
    for (const Tensor& x : {pair.dense, pair.expert}) {
      std::vector<char> bytes(x.rank == 0 ? 0 : x.bytes());
      if (!bytes.empty() && lies_in(t.memory.host_state, x))
        std::memcpy(bytes.data(), x.data, bytes.size());
      else if (!bytes.empty())
        t.device->copy_to_host(*t.stream, bytes.data(), x.data, bytes.size());
      t.stream->synchronize();
      s.buffers.emplace_back(name, std::move(bytes));
    }
  };
  add("weights", t.memory.weights);
  add("masters", t.memory.master);
  add("ties", t.memory.ties);
  add("first moments", t.memory.m);
  add("second moments", t.memory.v);
  s.row_steps = t.optimizer.row_steps;
  s.step = t.step, s.tokens = t.tokens, s.flops = t.flops;
  return s;
}

inline void expect_same_bits(const RawState& a, const RawState& b) {
  ASSERT_EQ(a.buffers.size(), b.buffers.size());
  for (std::size_t i = 0; i < a.buffers.size(); ++i)
    EXPECT_TRUE(a.buffers[i].second == b.buffers[i].second) << a.buffers[i].first;
  EXPECT_EQ(a.row_steps, b.row_steps);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.flops, b.flops);
}

}  // namespace upcycle::test
