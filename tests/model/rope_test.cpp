#include "parallel/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace upcycle {
namespace {

ModelConfig model_with_heads_of(std::int64_t D) {
  ModelConfig m;
  m.hidden_size = 4 * D;
  m.num_attention_heads = 4;
  m.head_dim = D;
  return m;
}

std::vector<float> table_of(const ModelConfig& model, std::int64_t positions) {
  const std::int64_t R = model.rotary_size();
  std::vector<float> values(static_cast<std::size_t>(positions * R));
  fill_rope_table(Tensor(values.data(), DType::F32, {positions, R}), model, positions);
  return values;
}

TEST(RopeTable, PlainAngles) {
  const std::vector<float> t = table_of(model_with_heads_of(4), 3);
  EXPECT_EQ(t[0], 1.0f);  // position 0: cos 0, cos 0, sin 0, sin 0
  EXPECT_EQ(t[1], 1.0f);
  EXPECT_EQ(t[2], 0.0f);
  EXPECT_EQ(t[3], 0.0f);
  EXPECT_NEAR(t[8], -0.4161468365f, 1e-7);   // cos(2)
  EXPECT_NEAR(t[9], 0.9998000067f, 1e-7);    // cos(2 / 100)
  EXPECT_NEAR(t[10], 0.9092974268f, 1e-7);   // sin(2)
  EXPECT_NEAR(t[11], 0.01999866669f, 1e-7);  // sin(2 / 100)
}

// Frequencies of Llama 3.1 (theta 500000, D 128, factor 8 of 8192 positions) as transformers computes them: kept below
// a wavelength of 8192 / 4, divided by eight past 8192, blended between.
TEST(RopeTable, Llama3ScalingAgainstTransformers) {
  ModelConfig m = model_with_heads_of(128);
  m.rope_theta = 500000;
  m.rope_scaling = {"llama3", 8, 1, 4, 8192};
  const std::vector<float> t = table_of(m, 2);
  const std::vector<std::pair<std::size_t, double>> expected = {{0, 1.0},
                                                                {1, 0.814617217},
                                                                {20, 0.0165604409},
                                                                {28, 0.00321144611},
                                                                {29, 0.00216657063},
                                                                {30, 0.00137189368},
                                                                {32, 0.000524846022},
                                                                {34, 0.000178507791},
                                                                {35, 9.55621217e-05},
                                                                {36, 7.78465546e-05},
                                                                {63, 3.06892588e-07}};
  for (const auto& [i, frequency] : expected) {
    const double sine = t[128 + 64 + i];
    EXPECT_NEAR(std::asin(sine) / frequency, 1.0, 2e-6) << "frequency " << i;
    EXPECT_NEAR(t[128 + i], std::cos(frequency), 1e-7) << "frequency " << i;
  }
}

// Angles are formed in fp64: at position 100000 an fp32 product would be off by more than 1e-3.
TEST(RopeTable, LongPositionsKeepTheirAngle) {
  const std::int64_t last = 100'000;
  const std::vector<float> t = table_of(model_with_heads_of(8), last + 1);
  for (std::size_t i = 0; i < 4; ++i) {
    const long double angle =
        static_cast<long double>(last) * std::pow(10000.0L, -2.0L * static_cast<long double>(i) / 8);
    EXPECT_NEAR(t[static_cast<std::size_t>(last) * 8 + i], static_cast<double>(std::cos(angle)), 1e-6);
    EXPECT_NEAR(t[static_cast<std::size_t>(last) * 8 + 4 + i], static_cast<double>(std::sin(angle)), 1e-6);
  }
}

}  // namespace
}  // namespace upcycle
