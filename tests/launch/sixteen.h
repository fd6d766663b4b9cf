#pragma once
#include "launch/bench/workload.h"
#include "tests/launch/fake_server.h"

namespace upcycle {

// 8 requests at a time, 10 steps of 0.05 s each: 16 requests/s at most, 0.5 s of latency.
inline constexpr double kCapacity = 16;
struct Sixteen {
  FakeServer server{8, 0.05};
  Workload workload;
  Sixteen() {
    workload.input_len = 20;
    workload.output_len = 10;
    workload.vocab_size = 50;
  }
};

}  // namespace upcycle
