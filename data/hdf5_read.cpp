#include <hdf5.h>

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hdf5.h"
#include "data/hdf5_dataset.h"
#include "data/hdf5_handle.h"

namespace upcycle {
namespace {

void read_block(const Opened& opened, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                void* out, const Where& where) {
  const std::string what = "read dataset " + quote_text(opened.facts.name);
  const Handle space(H5Dget_space(opened.dataset), H5Sclose, where, what);
  select_rectangle(space, row, rows, column, columns, where);
  const hsize_t count[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
  const Handle memory(H5Screate_simple(2, count, nullptr), H5Sclose, where, what);
  const Handle type = make_type(opened.facts.type, where);  // the file's own: bits are moved, not converted
  check(H5Dread(opened.dataset, type, memory, space, H5P_DEFAULT, out), where, what);
}

void convert(const float* from, std::int64_t n, bf16* to) {
  std::transform(from, from + n, to, [](float x) { return to_bf16(x); });
}
void convert(const bf16* from, std::int64_t n, float* to) {
  std::transform(from, from + n, to, [](bf16 x) { return to_float(x); });
}

// Blocks of whole rows of the rectangle if they fit, else parts of one row.
template <class Stored, class Out>
void read_converted(const Opened& opened, std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns, Out* out, const Where& where) {
  const std::int64_t block_columns = std::min(columns, kBlockElements);
  const std::int64_t block_rows = std::min(rows, std::max<std::int64_t>(1, kBlockElements / block_columns));
  std::vector<Stored> block(static_cast<std::size_t>(block_rows * block_columns));
  for (std::int64_t r = 0; r < rows; r += block_rows)
    for (std::int64_t c = 0; c < columns; c += block_columns) {
      const std::int64_t n_rows = std::min(block_rows, rows - r), n_columns = std::min(block_columns, columns - c);
      read_block(opened, row + r, n_rows, column + c, n_columns, block.data(), where);
      convert(block.data(), n_rows * n_columns, out + r * columns + c);
    }
}

template <class Out, class Other>
void read_rectangle(hid_t file, const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns, Out* out, const Where& where) {
  const Opened opened = open_dataset(file, name, where);
  const Hdf5Dataset& d = opened.facts;
  UPCYCLE_CHECK(row >= 0 && rows >= 0 && rows <= d.rows && row <= d.rows - rows && column >= 0 && columns >= 0 &&
                    columns <= d.columns && column <= d.columns - columns,
                "{}: {}: rectangle ({} + {}, {} + {}) of ({}, {})", where.path, name, row, rows, column, columns,
                d.rows, d.columns);
  if (rows == 0 || columns == 0) return;
  if (d.type == DTypeOf<Out>::value) return read_block(opened, row, rows, column, columns, out, where);
  read_converted<Other>(opened, row, rows, column, columns, out, where);
}

}  // namespace

void Hdf5File::read(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns, float* out) const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  read_rectangle<float, bf16>(file_, name, row, rows, column, columns, out, {path_, writing_});
}
void Hdf5File::read(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns, bf16* out) const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  read_rectangle<bf16, float>(file_, name, row, rows, column, columns, out, {path_, writing_});
}

std::uint64_t Hdf5File::offset_of(const Hdf5Dataset& dataset) const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  haddr_t begin = HADDR_UNDEF;  // HDF5's answer for external storage and for non-contiguous layouts
  hsize_t stored = 0;
  if (const hid_t id = H5Dopen2(file_, dataset.name.c_str(), H5P_DEFAULT); id >= 0) {
    begin = H5Dget_offset(id);
    stored = H5Dget_storage_size(id);
    H5Dclose(id);
  }
  H5Eclear2(H5E_DEFAULT);
  const hsize_t expected = static_cast<hsize_t>(dataset.rows) * static_cast<hsize_t>(dataset.columns) *
                           static_cast<hsize_t>(size_of(dataset.type));
  const std::uint64_t size = open_regular_file(path_).size();
  if (begin == HADDR_UNDEF || stored != expected || expected > size || begin > size - expected)
    input_error(
        "{}: dataset {}: found no {} bytes in one piece inside the file, expected its values; the file is damaged",
        path_, quote_text(dataset.name), expected);
  return begin;
}

}  // namespace upcycle
