#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"

namespace upcycle {

// A non-owning view of memory that an arena owns. Row-major; only the leading dimension may be strided, so that a
// block of columns (q, k or v inside a packed qkv) is a view too. At most four dimensions.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::F32;
  int rank = 0;
  std::array<std::int64_t, 4> shape{};
  std::int64_t row_stride = 0;  // elements from one index of the leading dimension to the next

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> dims);

  explicit operator bool() const { return data != nullptr; }

  std::int64_t size() const;                      // elements
  std::int64_t rows() const { return shape[0]; }  // leading dimension
  std::int64_t columns() const;                   // elements of one row
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype); }
  bool contiguous() const { return row_stride == columns() || shape[0] <= 1; }

  // Typed pointer; throws if T is not the stored type.
  template <class T>
  T* as() const {
    if (DTypeOf<T>::value != dtype) [[unlikely]]
      refuse_type(DTypeOf<T>::value);
    return static_cast<T*>(data);
  }

  Tensor slice_rows(std::int64_t begin, std::int64_t end) const;
  Tensor slice_columns(std::int64_t begin, std::int64_t end) const;  // of a two-dimensional tensor
  Tensor reshaped(std::initializer_list<std::int64_t> dims) const;   // of a contiguous tensor
  std::string describe() const;                                      // "bf16 (4, 8)"

 private:
  [[noreturn]] void refuse_type(DType asked) const;
};

}  // namespace upcycle
