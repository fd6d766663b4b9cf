#include "launch/yardstick.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/cpu/cpu_ops.h"
#include "launch/normal_operands.h"

namespace upcycle {
namespace {

struct Moments {
  double mean = 0, square = 0;
  std::size_t different = 0;
};
Moments moments_of(const Tensor& t) {
  Moments m;
  std::set<float> values;
  for (std::int64_t i = 0; i < t.size(); ++i) {
    const float x = t.dtype == DType::F32 ? t.as<float>()[i] : to_float(t.as<bf16>()[i]);
    m.mean += x / static_cast<double>(t.size());
    m.square += x * x / static_cast<double>(t.size());
    values.insert(x);
  }
  m.different = values.size();
  return m;
}
void expect_normal(const Tensor& t) {
  const Moments m = moments_of(t);
  EXPECT_NEAR(m.mean, 0, 0.02);
  EXPECT_NEAR(m.square, 1, 0.03);
  EXPECT_GT(m.different, t.dtype == DType::F32 ? 10000u : 500u);
}

TEST(NormalOperands, AreRandomNormalNumbersThatDifferATensor) {
  NormalOperands normal;
  Staging host;
  std::vector<float> a(150 * 200), b(a.size());
  std::vector<bf16> c(a.size());
  const Tensor first(a.data(), DType::F32, {150, 200}), second(b.data(), DType::F32, {30000}),
      third(c.data(), DType::BF16, {150, 200});
  normal.write(host, first);
  normal.write(host, second);
  normal.write(host, third);
  for (const Tensor& t : {first, second, third}) expect_normal(t);
  EXPECT_NE(a, b);
}

// The operands of every product, as the op sees them.
struct WatchedOps : CpuOps {
  std::vector<Moments>& seen;
  explicit WatchedOps(std::vector<Moments>& to) : seen(to) {}
  void matmul(Stream& s, Workspace w, MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b,
              Store store) override {
    if (seen.empty()) seen = {moments_of(a), moments_of(b)};
    CpuOps::matmul(s, w, kind, c, a, b, store);
  }
};

TEST(Yardstick, MultipliesRandomNormalNumbers) {
  std::vector<Moments> seen;
  Backend backend{make_cpu_device(), make_cpu_device()->make_stream(), std::make_unique<WatchedOps>(seen)};
  EXPECT_GT(measure_peak_flops(backend, DType::F32), 0);
  ASSERT_EQ(seen.size(), 2u);
  for (const Moments& m : seen) {
    EXPECT_NEAR(m.square, 1, 0.03);
    EXPECT_GT(m.different, 10000u);
  }
}

TEST(Yardstick, IsMeasuredAgainWhenAStepBeatsIt) {
  int again = 0;
  Yardstick y(80, [&] {
    ++again;
    return 150.0;
  });
  EXPECT_EQ(y.mfu(60), 0.75);
  EXPECT_EQ(again, 0);
  EXPECT_EQ(y.mfu(120), 0.8);  // 1.5 times what was measured beside other work
  EXPECT_EQ(again, 1);
  EXPECT_EQ(y.mfu(75), 0.5);
  EXPECT_EQ(again, 1);
  EXPECT_EQ(y.flops(), 150);
}

TEST(Yardstick, MfuIsNeverAboveOne) {
  Yardstick slow(80, [] { return 70.0; });
  EXPECT_EQ(slow.mfu(100), 1);
  EXPECT_EQ(slow.mfu(50), 0.5);
  Yardstick once(80);
  EXPECT_EQ(once.mfu(160), 1);
  EXPECT_EQ(once.flops(), 160);
}

}  // namespace
}  // namespace upcycle
