#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/tensor.h"

// Inputs that every rank can compute for every rank, so that each knows all results without communication (the idea is
// nccl-tests' verifiable.h).
namespace upcycle::test {

// The types that can be summed, and all that can be moved.
constexpr DType kSummed[] = {DType::F32, DType::BF16, DType::F64};
constexpr DType kAll[] = {DType::F32, DType::BF16, DType::F64, DType::I32, DType::I64};

inline void store(DType dtype, void* data, std::int64_t i, double x) {
  switch (dtype) {
    case DType::F32:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      break;
    case DType::BF16:
      static_cast<bf16*>(data)[i] = to_bf16(static_cast<float>(x));
      break;
    case DType::F64:
      static_cast<double*>(data)[i] = x;
      break;
    case DType::I32:
      static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(x);
      break;
    case DType::I64:
      static_cast<std::int64_t*>(data)[i] = static_cast<std::int64_t>(x);
      break;
  }
}

inline double load(DType dtype, const void* data, std::int64_t i) {
  switch (dtype) {
    case DType::F32:
      return static_cast<const float*>(data)[i];
    case DType::BF16:
      return to_float(static_cast<const bf16*>(data)[i]);
    case DType::F64:
      return static_cast<const double*>(data)[i];
    case DType::I32:
      return static_cast<const std::int32_t*>(data)[i];
    case DType::I64:
      return static_cast<double>(static_cast<const std::int64_t*>(data)[i]);
  }
  return 0;
}

// Whole numbers in [-30, 30]: sums of up to four are exact in every type, in any order.
inline double whole(int rank, std::int64_t i) { return static_cast<double>((i * 7 + rank * 23 + i / 61) % 61) - 30; }

// Magnitudes over 2^-12 .. 2^12 of both signs: almost every sum of three or more depends on its order, and a bf16 sum
// that rounds on the way differs from one that rounds once.
inline double rough(int rank, std::int64_t i) {
  std::uint64_t h = (static_cast<std::uint64_t>(i) * 8 + static_cast<std::uint64_t>(rank)) * 0x9E3779B97F4A7C15u;
  h ^= h >> 29;
  h *= 0xBF58476D1CE4E5B9u;
  h ^= h >> 32;
  const double mantissa = 1 + static_cast<double>(h & 0xffffffu) / 16777216.0;
  return ((h >> 40) & 1 ? -1 : 1) * std::ldexp(mantissa, static_cast<int>((h >> 41) % 25) - 12);
}

// What the sum over `size` ranks of input(rank, i) must be, bit for bit, in `dtype`.
template <class Input>
void store_sum(DType dtype, void* data, std::int64_t at, std::int64_t i, int size, Input input) {
  alignas(8) std::byte one[8];
  const auto stored = [&](int r) {
    store(dtype, one, 0, input(r, i));
    return load(dtype, one, 0);
  };
  if (dtype == DType::F64) {
    double sum = stored(0);
    for (int r = 1; r < size; ++r) sum += stored(r);
    store(dtype, data, at, sum);
  } else {
    float sum = static_cast<float>(stored(0));
    for (int r = 1; r < size; ++r) sum += static_cast<float>(stored(r));
    store(dtype, data, at, sum);
  }
}

// Memory for a tensor, filled with a byte that no input has.
struct Buffer {
  Buffer(DType dtype_, std::int64_t n)
      : dtype(dtype_), size(n), bytes(static_cast<std::size_t>(n) * size_of(dtype_) + 8, 0xA5) {}
  Tensor tensor() { return Tensor(bytes.data(), dtype, {size}); }
  Tensor tensor(std::int64_t rows, std::int64_t columns) { return Tensor(bytes.data(), dtype, {rows, columns}); }
  void* data() { return bytes.data(); }
  template <class Input>
  void fill(int rank, Input input) {
    for (std::int64_t i = 0; i < size; ++i) store(dtype, bytes.data(), i, input(rank, i));
  }
  // The bytes after the tensor belong to it so that a write past its end is seen.
  bool operator==(const Buffer& other) const { return bytes == other.bytes; }

  DType dtype;
  std::int64_t size;
  std::vector<unsigned char> bytes;
};

}  // namespace upcycle::test
