#include "core/tensor.h"

#include <numeric>

#include "core/error.h"

namespace upcycle {
namespace {

TEST(Tensor, SizesOfShapes) {
  float memory[24];
  const Tensor t(memory, DType::F32, {2, 3, 4});
  EXPECT_EQ(t.rank, 3);
  EXPECT_EQ(t.size(), 24);
  EXPECT_EQ(t.rows(), 2);
  EXPECT_EQ(t.columns(), 12);
  EXPECT_EQ(t.bytes(), 96u);
  EXPECT_TRUE(t.contiguous());
  EXPECT_TRUE(static_cast<bool>(t));
  EXPECT_EQ(t.describe(), "fp32 (2, 3, 4)");
  EXPECT_EQ(Tensor(nullptr, DType::BF16, {7}).bytes(), 14u);
  EXPECT_EQ(Tensor(nullptr, DType::F64, {0, 5}).bytes(), 0u);
  EXPECT_EQ(Tensor().size(), 0);
  EXPECT_FALSE(static_cast<bool>(Tensor(nullptr, DType::I32, {3})));
}

TEST(Tensor, OnlyTheStoredTypeIsGiven) {
  float memory[2] = {};
  const Tensor t(memory, DType::F32, {2});
  EXPECT_EQ(t.as<float>(), memory);
  EXPECT_THROW(t.as<bf16>(), Error);
  EXPECT_THROW(t.as<std::int32_t>(), Error);
}

TEST(Tensor, ImpossibleShapesThrow) {
  EXPECT_THROW(Tensor(nullptr, DType::F32, {}), Error);
  EXPECT_THROW(Tensor(nullptr, DType::F32, {1, 1, 1, 1, 1}), Error);
  EXPECT_THROW(Tensor(nullptr, DType::F32, {3, -1}), Error);
}

TEST(Tensor, RowsAndColumnsAreViewsOfTheSameMemory) {
  std::vector<float> memory(40);
  std::iota(memory.begin(), memory.end(), 0.0f);
  const Tensor t(memory.data(), DType::F32, {4, 10});
  const Tensor rows = t.slice_rows(1, 3);
  EXPECT_EQ(rows.shape[0], 2);
  EXPECT_EQ(rows.as<float>()[0], 10);
  EXPECT_TRUE(rows.contiguous());

  const Tensor block = t.slice_columns(4, 7);
  EXPECT_FALSE(block.contiguous());
  EXPECT_EQ(block.size(), 12);
  EXPECT_EQ(block.columns(), 3);
  EXPECT_EQ(block.row_stride, 10);
  EXPECT_EQ(block.as<float>()[0], 4);
  // Rows of a block of columns step by the whole tensor's rows.
  EXPECT_EQ(block.slice_rows(2, 4).as<float>()[0], 24);
  EXPECT_EQ(block.slice_columns(1, 2).as<float>()[0], 5);
  EXPECT_TRUE(block.slice_rows(2, 3).contiguous());
}

TEST(Tensor, PlannedViewsKeepNoAddress) {
  const Tensor t(nullptr, DType::F32, {4, 10});
  EXPECT_EQ(t.slice_rows(2, 4).data, nullptr);
  EXPECT_EQ(t.slice_columns(2, 4).data, nullptr);
}

TEST(Tensor, SlicesPastTheEndThrow) {
  float memory[40];
  const Tensor t(memory, DType::F32, {4, 10});
  EXPECT_EQ(t.slice_rows(4, 4).size(), 0);
  EXPECT_THROW(t.slice_rows(-1, 2), Error);
  EXPECT_THROW(t.slice_rows(3, 2), Error);
  EXPECT_THROW(t.slice_rows(0, 5), Error);
  EXPECT_THROW(t.slice_columns(0, 11), Error);
  EXPECT_THROW(t.slice_columns(-1, 2), Error);
  EXPECT_THROW(Tensor(memory, DType::F32, {4, 5, 2}).slice_columns(0, 1), Error);
}

TEST(Tensor, ReshapesDenseTensorsOnly) {
  float memory[40];
  const Tensor t(memory, DType::F32, {4, 10});
  EXPECT_EQ(t.reshaped({2, 2, 10}).columns(), 20);
  EXPECT_THROW(t.reshaped({4, 9}), Error);
  EXPECT_THROW(t.slice_columns(0, 5).reshaped({20}), Error);
}

}  // namespace
}  // namespace upcycle
