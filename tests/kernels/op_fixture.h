#pragma once
#include <omp.h>

#include "core/check.h"
#include "core/error.h"
#include "tests/kernels/host_tensor.h"

namespace upcycle {

using testing::HostTensor;

struct OpTest : ::testing::Test {
  std::unique_ptr<Device> device = testing::make_test_device();
  std::unique_ptr<Stream> stream = device->make_stream();
  std::unique_ptr<Ops> ops = testing::make_test_ops();
  testing::Bytes scratch;

  // For one call within the limits, aligned as an arena aligns it. NaN: nothing may rely on zeros.
  Workspace workspace_for(const OpLimits& limits) {
    scratch.assign(ops->workspace_bytes(limits) + 64, std::byte{0xff});
    void* at = scratch.data();
    std::size_t space = scratch.size();
    std::align(64, 1, at, space);
    return {at, space};
  }
};

// Sets an element of a dense tensor.
inline void set(const Tensor& t, std::int64_t i, double x) {
  switch (t.dtype) {
    case DType::F32:
      t.as<float>()[i] = static_cast<float>(x);
      break;
    case DType::BF16:
      t.as<bf16>()[i] = to_bf16(static_cast<float>(x));
      break;
    case DType::F64:
      t.as<double>()[i] = x;
      break;
    case DType::I32:
      t.as<std::int32_t>()[i] = static_cast<std::int32_t>(x);
      break;
    case DType::I64:
      t.as<std::int64_t>()[i] = static_cast<std::int64_t>(x);
      break;
  }
}

inline HostTensor random_tensor(DType dtype, std::initializer_list<std::int64_t> shape, std::string_view name,
                                double scale = 1) {
  HostTensor h(dtype, shape);
  for (std::int64_t i = 0; i < h.size(); ++i)
    set(h, i, scale * rng::normal(7, rng::key_of(name), static_cast<std::uint64_t>(i)));
  return h;
}

// Dense tensors of one type and size.
inline void copy_host(const Tensor& to, const Tensor& from) {
  UPCYCLE_CHECK(to.dtype == from.dtype && to.size() == from.size() && to.contiguous() && from.contiguous(),
                "copy of {} to {}", from.describe(), to.describe());
  if (to.size() > 0) std::memcpy(to.data, from.data, to.bytes());
}

// Another dense tensor with the same one- or two-dimensional contents.
inline HostTensor copy_of(const Tensor& t) {
  HostTensor c = t.rank == 1 ? HostTensor(t.dtype, {t.shape[0]}) : HostTensor(t.dtype, {t.shape[0], t.shape[1]});
  copy_host(c, t);
  return c;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && (a.bytes() == 0 || std::memcmp(a.data, b.data, a.bytes()) == 0);
}

struct ThreadCount {
  int before = omp_get_max_threads();
  explicit ThreadCount(int n) { omp_set_num_threads(n); }
  ~ThreadCount() { omp_set_num_threads(before); }
};

}  // namespace upcycle
