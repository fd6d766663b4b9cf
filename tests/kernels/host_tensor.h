#pragma once
#include <cmath>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/rng.h"
#include "kernels/ops.h"
#include "tests/kernels/test_backend.h"

namespace upcycle::testing {

// A tensor that owns its memory. `gap` elements lie between its rows and must not be written.
struct HostTensor : Tensor {
  std::shared_ptr<Memory> memory;
  std::int64_t gap = 0;

  HostTensor(DType dtype_, std::initializer_list<std::int64_t> dims, std::int64_t gap_ = 0)
      : Tensor(nullptr, dtype_, dims), gap(gap_) {
    row_stride = columns() + gap;
    const std::size_t size_bytes = static_cast<std::size_t>(rows() * row_stride) * size_of(dtype);
    memory = std::make_shared<Memory>(size_bytes + 64);  // never null, so that empty tensors have an address
    void* p = memory->data();
    std::size_t space = memory->size();
    data = std::align(64, size_bytes, p, space);
    for (std::int64_t r = 0; r < rows(); ++r)
      for (std::int64_t j = columns(); j < row_stride; ++j) write(r * row_stride + j, kGap);
  }

  double get(std::int64_t i) const { return columns() == 0 ? 0 : get(i / columns(), i % columns()); }
  double get(std::int64_t row, std::int64_t column) const { return read(row * row_stride + column); }
  void set(std::int64_t i, double x) { write(i / columns() * row_stride + i % columns(), x); }
  std::vector<double> values() const {
    std::vector<double> v(static_cast<std::size_t>(size()));
    for (std::int64_t i = 0; i < size(); ++i) v[static_cast<std::size_t>(i)] = get(i);
    return v;
  }
  void fill_value(double x) {
    for (std::int64_t i = 0; i < size(); ++i) set(i, x);
  }
  void fill_normal(std::string_view name, double scale = 1) {
    for (std::int64_t i = 0; i < size(); ++i)
      set(i, scale * rng::normal(7, rng::key_of(name), static_cast<std::uint64_t>(i)));
  }
  bool gaps_untouched() const {
    for (std::int64_t r = 0; r < rows(); ++r)
      for (std::int64_t j = columns(); j < row_stride; ++j)
        if (read(r * row_stride + j) != kGap) return false;
    return true;
  }

 private:
  static constexpr double kGap = 77;
  double read(std::int64_t i) const {
    switch (dtype) {
      case DType::F32:
        return as<float>()[i];
      case DType::BF16:
        return to_float(as<bf16>()[i]);
      case DType::F64:
        return as<double>()[i];
      case DType::I32:
        return as<std::int32_t>()[i];
      case DType::I64:
        return static_cast<double>(as<std::int64_t>()[i]);
    }
    return 0;
  }
  void write(std::int64_t i, double x) {
    switch (dtype) {
      case DType::F32:
        as<float>()[i] = static_cast<float>(x);
        break;
      case DType::BF16:
        as<bf16>()[i] = to_bf16(static_cast<float>(x));
        break;
      case DType::F64:
        as<double>()[i] = x;
        break;
      case DType::I32:
        as<std::int32_t>()[i] = static_cast<std::int32_t>(x);
        break;
      case DType::I64:
        as<std::int64_t>()[i] = static_cast<std::int64_t>(x);
        break;
    }
  }
};

// ||a - b|| / ||b||
inline double relative_l2(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// The ops under test with a stream and the scratch that `limits` ask for.
struct OpBench {
  std::unique_ptr<Device> device = make_test_device();
  std::unique_ptr<Stream> stream = device->make_stream();
  std::unique_ptr<Ops> ops = make_test_ops();
  Memory scratch;
  Workspace workspace;

  explicit OpBench(const OpLimits& limits) : scratch(ops->workspace_bytes(limits) + Arena::kAlignment) {
    void* p = scratch.data();
    std::size_t space = scratch.size();
    workspace.bytes = ops->workspace_bytes(limits);
    workspace.data = std::align(Arena::kAlignment, workspace.bytes, p, space);
  }
};

}  // namespace upcycle::testing
