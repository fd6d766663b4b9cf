#include <hdf5.h>

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "data/hdf5.h"
#include "data/hdf5_attributes.h"
#include "data/hdf5_dataset.h"
#include "data/hdf5_handle.h"

namespace upcycle {
namespace {

// Makes the parent groups one by one: those that HDF5 makes implicitly have timestamps.
void make_groups(hid_t file, const std::string& name, const Where& where) {
  const Handle properties = make_properties(H5P_GROUP_CREATE, where);
  for (std::size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (check(H5Lexists(file, group.c_str(), H5P_DEFAULT), where, "look for group " + group) > 0) continue;
    const Handle made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Gclose, where,
                      "make group " + group);
  }
}

}  // namespace

void Hdf5File::declare(const std::string& name, DType type, std::int64_t rows, std::int64_t columns,
                       const Hdf5Attributes& attributes) {
  UPCYCLE_CHECK(writing_, "{}: not open for writing", path_);
  UPCYCLE_CHECK(rows >= 0 && columns >= 0, "{}: {}: ({}, {})", path_, name, rows, columns);
  UPCYCLE_CHECK(declared_.emplace(name, Declared{rows, columns, 0, type}).second, "{}: {} was declared twice", path_,
                name);
  const Where where{path_, true};
  const std::string what = "make dataset " + name;
  make_groups(file_, name, where);
  const hsize_t size[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
  const Handle space(H5Screate_simple(2, size, nullptr), H5Sclose, where, what);
  const Handle properties = make_properties(H5P_DATASET_CREATE, where);
  check(H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER), where, what);  // each byte is written once, by us
  const Handle file_type = make_type(type, where);
  Handle dataset(H5Dcreate2(file_, name.c_str(), file_type, space, H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose,
                 where, what);
  write_attribute_list(dataset, attributes, where);
  dataset.close_checked(where, what);
}

void Hdf5File::write_raw(const std::string& name, DType type, const void* values, std::int64_t rows) {
  const auto found = declared_.find(name);
  UPCYCLE_CHECK(writing_ && found != declared_.end(), "{}: {} was never declared", path_, name);
  Declared& d = found->second;
  UPCYCLE_CHECK(d.type == type, "{}: {} is declared {}, written as {}", path_, name, name_of(d.type), name_of(type));
  UPCYCLE_CHECK(rows >= 0 && rows <= d.rows - d.written, "{}: {}: {} rows written, {} more given, {} declared", path_,
                name, d.written, rows, d.rows);
  const std::int64_t begin = d.written;
  d.written += rows;
  if (rows == 0 || d.columns == 0) return;
  const Where where{path_, true};
  const std::string what = "write dataset " + name;
  Handle dataset(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose, where, what);
  const Handle space(H5Dget_space(dataset), H5Sclose, where, what);
  select_rectangle(space, begin, rows, 0, d.columns, where);
  const hsize_t count[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(d.columns)};
  const Handle memory(H5Screate_simple(2, count, nullptr), H5Sclose, where, what);
  check(H5Dwrite(dataset, make_type(type, where), memory, space, H5P_DEFAULT, values), where, what);
  dataset.close_checked(where, what);
}

void Hdf5File::write_rows(const std::string& name, std::int64_t rows, const float* values) {
  const auto found = declared_.find(name);
  UPCYCLE_CHECK(found != declared_.end(), "{}: {} was never declared", path_, name);
  const Declared& d = found->second;
  if (d.type == DType::F32 || d.columns == 0) return write_raw(name, d.type, values, rows);
  const std::int64_t block_rows = std::max<std::int64_t>(1, kBlockElements / d.columns);
  std::vector<bf16> block(static_cast<std::size_t>(std::min(block_rows, rows) * d.columns));
  for (std::int64_t r = 0; r < rows; r += block_rows) {
    const std::int64_t n = std::min(block_rows, rows - r);
    const float* from = values + r * d.columns;
    std::transform(from, from + n * d.columns, block.data(), [](float x) { return to_bf16(x); });
    write_raw(name, DType::BF16, block.data(), n);
  }
}

void Hdf5File::write(const std::string& name, const float* values, std::int64_t rows, std::int64_t columns,
                     const Hdf5Attributes& attributes) {
  declare(name, DType::F32, rows, columns, attributes);
  write_raw(name, DType::F32, values, rows);
}

void Hdf5File::write(const std::string& name, const bf16* values, std::int64_t rows, std::int64_t columns,
                     const Hdf5Attributes& attributes) {
  declare(name, DType::BF16, rows, columns, attributes);
  write_raw(name, DType::BF16, values, rows);
}

void Hdf5File::write_attributes(const Hdf5Attributes& attributes) {
  UPCYCLE_CHECK(writing_, "{}: not open for writing", path_);
  const Where where{path_, true};
  const Handle root(H5Gopen2(file_, "/", H5P_DEFAULT), H5Gclose, where, "open the root group");
  write_attribute_list(root, attributes, where);
}

}  // namespace upcycle
