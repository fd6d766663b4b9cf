#include "launch/bench/workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace upcycle {
namespace {

Workload fixed() {
  Workload w;
  w.input_len = 100;
  w.output_len = 10;
  w.vocab_size = 50;
  return w;
}

// The largest distance between the gaps' distribution and the exponential one, times sqrt(n): 1.95 is exceeded by one
// seed in a thousand (Kolmogorov, Smirnov).
double distance_to_exponential(const Workload& w, double rate) {
  const std::vector<double> arrivals = draw_arrivals(w, rate, 2000 / rate, 7);
  std::vector<double> gaps;
  for (std::size_t i = 0; i < arrivals.size(); ++i) gaps.push_back(arrivals[i] - (i > 0 ? arrivals[i - 1] : 0));
  std::sort(gaps.begin(), gaps.end());
  const auto n = static_cast<double>(gaps.size());
  double distance = 0;
  for (std::size_t i = 0; i < gaps.size(); ++i) {
    const double below = 1 - std::exp(-rate * gaps[i]);
    distance = std::max(
        {distance, std::abs(below - static_cast<double>(i) / n), std::abs(below - static_cast<double>(i + 1) / n)});
  }
  return distance * std::sqrt(n);
}

TEST(Workload, ArrivalsArePoisson) {
  for (const double rate : {0.3, 40.0}) {
    EXPECT_LT(distance_to_exponential(fixed(), rate), 1.95);
    Workload other = fixed();
    other.burstiness = 2;  // the measure sees that this is no Poisson process
    EXPECT_GT(distance_to_exponential(other, rate), 1.95);
    other.burstiness = 0.5;
    EXPECT_GT(distance_to_exponential(other, rate), 1.95);
  }
}

// Gaps of the gamma distribution: mean 1 / rate, variance 1 / (rate^2 burstiness).
TEST(Workload, BurstinessIsTheGapsShape) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    Workload w = fixed();
    w.burstiness = burstiness;
    const double rate = 5;
    const std::vector<double> arrivals = draw_arrivals(w, rate, 4000, 1);
    const auto n = static_cast<double>(arrivals.size());
    EXPECT_NEAR(n, 20000, 5 * std::sqrt(20000 / burstiness));
    double squares = 0;
    for (std::size_t i = 1; i < arrivals.size(); ++i)
      squares += std::pow(rate * (arrivals[i] - arrivals[i - 1]) - 1, 2);
    EXPECT_NEAR(squares / n * burstiness, 1, 0.1);
  }
}

TEST(Workload, LengthsAreUniformInTheirRange) {
  Workload w = fixed();
  w.range_ratio = 0.3;
  const std::vector<TimedRequest> requests = draw_requests(w, std::vector<double>(3000), 1);
  double sum = 0;
  std::int64_t least = 1000, most = 0;
  for (const TimedRequest& r : requests) {
    const auto n = static_cast<std::int64_t>(r.request.prompt.size());
    sum += static_cast<double>(n);
    least = std::min(least, n);
    most = std::max(most, n);
    EXPECT_TRUE(r.request.max_tokens >= 7 && r.request.max_tokens <= 13);
    for (const std::int32_t id : r.request.prompt) ASSERT_TRUE(id >= 0 && id < 50);
  }
  EXPECT_EQ(least, 70);
  EXPECT_EQ(most, 130);
  EXPECT_NEAR(sum / 3000, 100, 2);
  EXPECT_EQ(longest_request(w), 143);
  // The same seed gives the same requests, another run other ones.
  EXPECT_EQ(draw_requests(w, {0}, 1)[0].request.prompt, requests[0].request.prompt);
  EXPECT_NE(draw_requests(w, {0}, 2)[0].request.prompt, requests[0].request.prompt);
}

}  // namespace
}  // namespace upcycle
