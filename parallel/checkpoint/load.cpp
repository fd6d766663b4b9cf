#include "parallel/checkpoint/load.h"

#include "core/error.h"
#include "parallel/checkpoint/read_once.h"
#include "parallel/model/weights.h"

namespace upcycle {

void load_parameters(const ParamTable& table, TensorSource& source, std::size_t buffer_bytes, const StoreRows& store,
                     const HostGroup* host) {
  std::vector<Want> wants;
  for (const ParamRow& row : table.rows) {
    if (!source.has(row.name))
      input_error("{}: no tensor {}; the model of this run needs it ({} x {})", source.name(), row.name, row.rows,
                  row.columns);
    wants.push_back(
        {row.name, row.part, [&row, &store](const Rectangle& part, const float* values) { store(row, part, values); }});
  }
  read_once(source, wants, host, buffer_bytes);
}

void store_rows(const ParamRow& row, const Rectangle& part, const float* values, Staging& staging, const Tensor& dense,
                const Tensor& expert) {
  const std::int64_t first = part.row - row.part.row;
  write_floats(staging, view_row(row, dense, expert).slice_rows(first, first + part.rows), values);
  if (row.role == ParamRole::RouterBias) write_working_bias(row, values, staging, dense);  // one row: all of it
}

void load_weights(const ParamTable& table, TensorSource& source, Staging& staging, const Tensor& dense,
                  const Tensor& expert, const HostGroup* host) {
  constexpr std::size_t kBuffer = std::size_t{32} << 20;
  const auto store = [&](const ParamRow& row, const Rectangle& part, const float* values) {
    store_rows(row, part, values, staging, dense, expert);
  };
  load_parameters(table, source, kBuffer, store, host);
}

}  // namespace upcycle
