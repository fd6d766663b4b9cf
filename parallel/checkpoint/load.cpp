#include <algorithm>

#include "parallel/checkpoint/tensor_source.h"
#include "parallel/model/weights.h"

namespace upcycle {

void load_parameters(const ParamTable& table, TensorSource& source, std::size_t buffer_bytes, const StoreRows& store) {
  std::vector<float> buffer;
  for (const ParamRow& row : table.rows) {
    if (!source.has(row.name))
      input_error("{}: no tensor {}; the model of this run needs it ({} x {})", source.name(), row.name, row.rows,
                  row.columns);
    const std::int64_t columns = row.part.columns;
    if (row.part.size() == 0) continue;
    const std::int64_t budget = static_cast<std::int64_t>(buffer_bytes / sizeof(float)) / columns;
    const std::int64_t step = std::max<std::int64_t>(1, std::min(budget, row.part.rows));
    buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(step * columns)));
    for (std::int64_t r = 0; r < row.part.rows; r += step) {
      const Rectangle part{row.part.row + r, row.part.column, std::min(step, row.part.rows - r), columns};
      source.read(row.name, part, buffer.data());
      store(row, part, buffer.data());
    }
  }
}

void store_rows(const ParamRow& row, const Rectangle& part, const float* values, Staging& staging, const Tensor& dense,
                const Tensor& expert) {
  const std::int64_t first = part.row - row.part.row;
  write_floats(staging, view_row(row, dense, expert).slice_rows(first, first + part.rows), values);
}

void load_weights(const ParamTable& table, TensorSource& source, Staging& staging, const Tensor& dense,
                  const Tensor& expert) {
  constexpr std::size_t kBuffer = std::size_t{32} << 20;
  load_parameters(table, source, kBuffer, [&](const ParamRow& row, const Rectangle& part, const float* values) {
    store_rows(row, part, values, staging, dense, expert);
  });
}

}  // namespace upcycle
