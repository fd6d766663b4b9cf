#include "core/tensor.h"

#include <cstring>

#include "core/check.h"

namespace upcycle {

Tensor::Tensor(void* data_, DType dtype_, std::initializer_list<std::int64_t> dims) : data(data_), dtype(dtype_) {
  UPCYCLE_CHECK(dims.size() >= 1 && dims.size() <= 4, "a tensor has 1 to 4 dimensions, not {}", dims.size());
  for (const std::int64_t d : dims) {
    UPCYCLE_CHECK(d >= 0, "negative dimension {}", d);
    shape[static_cast<std::size_t>(rank++)] = d;
  }
  row_stride = columns();
}

void Tensor::refuse_type(DType asked) const {
  throw_error(__FILE__, __LINE__, "DTypeOf<T>::value == dtype",
              fmt::format("tensor holds {}, asked for {}", name_of(dtype), name_of(asked)));
}

std::int64_t Tensor::columns() const {
  std::int64_t n = 1;
  for (int i = 1; i < rank; ++i) n *= shape[static_cast<std::size_t>(i)];
  return n;
}

std::int64_t Tensor::size() const { return rank == 0 ? 0 : shape[0] * columns(); }

Tensor Tensor::slice_rows(std::int64_t begin, std::int64_t end) const {
  UPCYCLE_CHECK(0 <= begin && begin <= end && end <= shape[0], "rows [{}, {}) of {}", begin, end, describe());
  Tensor t = *this;
  t.shape[0] = end - begin;
  if (data != nullptr)
    t.data = static_cast<char*>(data) + static_cast<std::size_t>(begin * row_stride) * size_of(dtype);
  return t;
}

Tensor Tensor::slice_columns(std::int64_t begin, std::int64_t end) const {
  UPCYCLE_CHECK(rank == 2 && 0 <= begin && begin <= end && end <= shape[1], "columns [{}, {}) of {}", begin, end,
                describe());
  Tensor t = *this;
  t.shape[1] = end - begin;
  if (data != nullptr) t.data = static_cast<char*>(data) + static_cast<std::size_t>(begin) * size_of(dtype);
  return t;
}

Tensor Tensor::reshaped(std::initializer_list<std::int64_t> dims) const {
  UPCYCLE_CHECK(contiguous(), "a strided tensor can not be reshaped: {}", describe());
  Tensor t(data, dtype, dims);
  UPCYCLE_CHECK(t.size() == size(), "{} reshaped to {}", describe(), t.describe());
  return t;
}

std::string Tensor::describe() const {
  std::string s = std::string(name_of(dtype)) + " (";
  for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string(shape[static_cast<std::size_t>(i)]);
  return s + ")";
}

}  // namespace upcycle
