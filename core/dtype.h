#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace upcycle {

// Storage types. BF16 is stored as 16 bits and always computed in fp32.
enum class DType : std::uint8_t { F32, BF16, F64, I32, I64 };

constexpr std::size_t size_of(DType t) {
  switch (t) {
    case DType::BF16:
      return 2;
    case DType::F64:
    case DType::I64:
      return 8;
    default:
      return 4;
  }
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::F32:
      return "fp32";
    case DType::BF16:
      return "bf16";
    case DType::F64:
      return "fp64";
    case DType::I32:
      return "int32";
    case DType::I64:
      return "int64";
  }
  return "?";
}

struct bf16 {
  std::uint16_t bits = 0;
};

constexpr float to_float(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
constexpr float to_float(float x) { return x; }

// Round to nearest, ties to even; NaN stays NaN (rounding its payload up could make it infinite).
constexpr bf16 to_bf16(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return bf16{static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::F32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::BF16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::F64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::I32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::I64;
};

}  // namespace upcycle
