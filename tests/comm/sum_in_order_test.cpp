#include "parallel/comm/sum_in_order.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/comm/inputs.h"

namespace upcycle::test {
namespace {

TEST(Sums, InOrderAndRoundedOnce) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F64}) {
    for (const int ranks : {1, 2, 3, 7}) {
      for (const std::int64_t n : {0, 1, 5, 2048, 2049, 70001}) {
        std::vector<Buffer> inputs;
        std::vector<const void*> sources;
        for (int r = 0; r < ranks; ++r) inputs.emplace_back(dtype, n).fill(r, rough);
        for (Buffer& b : inputs) sources.push_back(b.data());
        Buffer expected(dtype, n), out(dtype, n);
        for (std::int64_t i = 0; i < n; ++i) store_sum(dtype, expected.data(), i, i, ranks, rough);
        sum_in_order(dtype, out.data(), sources, n);
        EXPECT_TRUE(out == expected) << name_of(dtype) << " " << ranks << " ranks, n " << n;
        // Into the last source.
        sum_in_order(dtype, inputs.back().data(), sources, n);
        EXPECT_TRUE(inputs.back() == expected) << name_of(dtype) << " " << ranks << " ranks, n " << n << " in place";
      }
    }
  }
}

// The inputs above must distinguish the orders, and one rounding from several.
TEST(Sums, InputsTellOrdersApart) {
  int order = 0, rounding = 0;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const float a = static_cast<float>(rough(0, i)), b = static_cast<float>(rough(1, i)),
                c = static_cast<float>(rough(2, i));
    order += (a + b) + c != a + (b + c);
    const float x = to_float(to_bf16(a)), y = to_float(to_bf16(b)), z = to_float(to_bf16(c));
    rounding += to_bf16(x + y + z).bits != to_bf16(to_float(to_bf16(x + y)) + z).bits;
  }
  EXPECT_GT(order, 100);
  EXPECT_GT(rounding, 100);
}

TEST(Sums, SpecialValues) {
  const float inf = INFINITY;
  const float a[] = {-0.0f, inf, inf, 3e38f, 1}, b[] = {-0.0f, 1, -inf, 3e38f, NAN};
  const void* sources[] = {a, b};
  float out[5];
  sum_in_order(DType::F32, out, sources, 5);
  EXPECT_TRUE(out[0] == 0 && std::signbit(out[0]));
  EXPECT_EQ(out[1], inf);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], inf);
  EXPECT_TRUE(std::isnan(out[4]));
  // A bf16 sum with a NaN of small payload stays NaN.
  const bf16 nan{0x7f81}, one{0x3f80};
  const void* halves[] = {&one, &nan};
  bf16 sum;
  sum_in_order(DType::BF16, &sum, halves, 1);
  EXPECT_TRUE(std::isnan(to_float(sum)));
}

TEST(Sums, IntegersAreRefused) {
  std::int32_t x = 1;
  const void* sources[] = {&x, &x};
  EXPECT_THROW(sum_in_order(DType::I32, &x, sources, 1), Error);
}

}  // namespace
}  // namespace upcycle::test
