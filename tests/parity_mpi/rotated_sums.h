#pragma once
#include <cstring>
#include <numeric>
#include <vector>

#include "tests/forwarding_communicator.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

// A group on the CPU whose reduce-scatter adds fp32 starting at rank `first` and wrapping around: groups of the same
// size add in different orders, as NCCL's may (NVIDIA/nccl issue 2091).
class RotatedSums final : public ForwardingCommunicator {
 public:
  RotatedSums(std::shared_ptr<Communicator> inner, int first)
      : ForwardingCommunicator(std::move(inner)), first_(first) {}

  Event reduce_scatter(const Tensor& out, const Tensor& in) override {
    const std::int64_t n = out.size();
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), n);
    std::vector<float> all(static_cast<std::size_t>(n * size()));
    wait(inner().all_to_all_v(Tensor(all.data(), DType::F32, {n * size()}), counts, in, counts));
    std::vector<float> sum(static_cast<std::size_t>(n), 0.0f);
    for (int i = 0; i < size(); ++i) {
      const float* part = all.data() + (first_ + i) % size() * n;
      for (std::int64_t j = 0; j < n; ++j) sum[static_cast<std::size_t>(j)] += part[j];
    }
    std::memcpy(out.data, sum.data(), out.bytes());
    return {};
  }

 private:
  int first_;
};

}  // namespace upcycle::test
