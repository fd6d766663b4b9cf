#include "core/staging.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/error.h"

// On the CPU, in place; tests/cuda_host has the ring of pinned memory.
namespace upcycle {
namespace {

TEST(Staging, HandsHostMemoryOutItself) {
  std::vector<float> memory(12);
  Staging host;
  const Tensor all(memory.data(), DType::F32, {3, 4});
  host.write(all, [&](void* at, std::int64_t row, std::int64_t rows) {
    EXPECT_EQ(at, memory.data());
    EXPECT_EQ(row, 0);
    EXPECT_EQ(rows, 3);
    std::iota(static_cast<float*>(at), static_cast<float*>(at) + 12, 0.0f);
  });
  std::vector<std::int64_t> rows;
  host.read(all.slice_columns(1, 3), [&](const void* at, std::int64_t row, std::int64_t n) {
    EXPECT_EQ(n, 1);
    EXPECT_EQ(static_cast<const float*>(at)[0], static_cast<float>(4 * row + 1));
    rows.push_back(row);
  });
  EXPECT_EQ(rows, (std::vector<std::int64_t>{0, 1, 2}));
}

TEST(Staging, WritesAndReadsFloatsOfEitherType) {
  Staging host;
  const std::vector<float> values{1.0f, -2.5f, 1.00390625f, 3.0f};
  for (const DType dtype : {DType::F32, DType::BF16}) {
    std::vector<float> memory(16, 7.0f), back(4);
    const Tensor block = Tensor(memory.data(), dtype, {2, 6}).slice_columns(2, 4);
    write_floats(host, block, values.data());
    read_floats(host, block, back.data());
    for (std::size_t i = 0; i < back.size(); ++i)
      EXPECT_EQ(back[i], dtype == DType::F32 ? values[i] : to_float(to_bf16(values[i])));
  }
  std::vector<std::int32_t> ids(4);
  EXPECT_THROW(write_floats(host, Tensor(ids.data(), DType::I32, {4}), values.data()), Error);
}

TEST(Staging, RefusesToBeUsedInsideItsOwnUse) {
  std::vector<float> a(4), b(4);
  Staging host, other;
  const Tensor from(a.data(), DType::F32, {4}), to(b.data(), DType::F32, {4});
  const auto copy_with = [&](Staging& second) {
    host.read(from, [&](const void* at, std::int64_t, std::int64_t) {
      write_floats(second, to, static_cast<const float*>(at));
    });
  };
  EXPECT_THROW(copy_with(host), Error);
  EXPECT_NO_THROW(copy_with(other));
  EXPECT_NO_THROW(copy_with(other));  // the refused use has ended
}

}  // namespace
}  // namespace upcycle
