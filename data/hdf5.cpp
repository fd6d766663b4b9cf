#include "data/hdf5.h"

#include <hdf5.h>

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hdf5_attributes.h"
#include "data/hdf5_dataset.h"
#include "data/hdf5_handle.h"

static_assert(std::endian::native == std::endian::little, "datasets are little-endian and moved as they are");

namespace upcycle {
namespace {

constexpr std::int64_t block_elements = std::int64_t{1} << 18;  // 1 MiB of floats

void prepare_library() {
  // We close every file ourselves; HDF5's own cleanup at exit crashes after a close that failed, as on a full disk.
  // It refuses a second call, and one that comes too late, which a program that uses HDF5 besides us may make.
  [[maybe_unused]] static const herr_t once = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // else the error stack is printed on standard error
}

Handle make_file_access(const Where& where) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where, "set up file access");
  // 1.8's format checksums its metadata and is read by every HDF5 of the last fifteen years.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), where, "set up file access");
  // An object left open would keep the file open past H5Fclose: make that an error.
  check(H5Pset_fclose_degree(access, H5F_CLOSE_SEMI), where, "set up file access");
  // Run folders have their own lock, and parallel file systems often refuse HDF5's.
  check(H5Pset_file_locking(access, false, true), where, "set up file access");
  return access;
}

// Times in the file would give equal checkpoints different checksums.
Handle make_properties(hid_t kind, const Where& where) {
  Handle properties(H5Pcreate(kind), H5Pclose, where, "set up properties");
  check(H5Pset_obj_track_times(properties, false), where, "set up properties");
  return properties;
}

// Groups are made one by one: those that HDF5 makes by itself carry times.
void make_groups(hid_t file, const std::string& name, const Where& where) {
  const Handle properties = make_properties(H5P_GROUP_CREATE, where);
  for (std::size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (check(H5Lexists(file, group.c_str(), H5P_DEFAULT), where, "look for group " + group) > 0) continue;
    const Handle made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Gclose, where,
                      "make group " + group);
  }
}

void select(hid_t space, hsize_t row, hsize_t rows, hsize_t column, hsize_t columns, const Where& where) {
  const hsize_t begin[2] = {row, column}, count[2] = {rows, columns};
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, begin, nullptr, count, nullptr), where, "select a rectangle");
}

void read_block(const Opened& opened, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                void* out, const Where& where) {
  const std::string what = "read dataset " + quote_text(opened.facts.name);
  const Handle space(H5Dget_space(opened.dataset), H5Sclose, where, what);
  select(space, row, rows, column, columns, where);
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

// Blocks of whole rows of the rectangle where they fit, else parts of one row.
template <class Stored, class Out>
void read_converted(const Opened& opened, std::int64_t row, std::int64_t rows, std::int64_t column,
                    std::int64_t columns, Out* out, const Where& where) {
  const std::int64_t block_columns = std::min(columns, block_elements);
  const std::int64_t block_rows = std::min(rows, std::max<std::int64_t>(1, block_elements / block_columns));
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

std::string rectangle_name(const std::string& tensor, int index) { return fmt::format("{}/{}", tensor, index); }

Hdf5File::~Hdf5File() {
  if (file_ >= 0) H5Fclose(file_);
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept { *this = std::move(other); }

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(writing_, other.writing_);
  std::swap(path_, other.path_);
  std::swap(declared_, other.declared_);
  return *this;
}

Hdf5File Hdf5File::create(const std::string& path) {
  prepare_library();
  create_file(path).close_checked();  // says plainly what HDF5 would wrap: no such folder, not allowed
  Hdf5File result;
  result.path_ = path;
  result.writing_ = true;
  const Where where{result.path_, true};
  const Handle access = make_file_access(where), properties = make_properties(H5P_FILE_CREATE, where);
  result.file_ = check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, properties, access), where, "create the file");
  return result;
}

Hdf5File Hdf5File::open_read(const std::string& path) {
  prepare_library();
  open_regular_file(path);
  Hdf5File result;
  result.path_ = path;
  const Where where{result.path_, false};
  const Handle access = make_file_access(where);
  result.file_ = check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), where, "open the file as HDF5");
  return result;
}

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
  const Handle dataset(H5Dcreate2(file_, name.c_str(), file_type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                       H5Dclose, where, what);
  write_attribute_list(dataset, attributes, where);
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
  const Handle dataset(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose, where, what);
  const Handle space(H5Dget_space(dataset), H5Sclose, where, what);
  select(space, begin, rows, 0, d.columns, where);
  const hsize_t count[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(d.columns)};
  const Handle memory(H5Screate_simple(2, count, nullptr), H5Sclose, where, what);
  check(H5Dwrite(dataset, make_type(type, where), memory, space, H5P_DEFAULT, values), where, what);
}

void Hdf5File::write_rows(const std::string& name, std::int64_t rows, const float* values) {
  const auto found = declared_.find(name);
  UPCYCLE_CHECK(found != declared_.end(), "{}: {} was never declared", path_, name);
  const Declared& d = found->second;
  if (d.type == DType::F32 || d.columns == 0) return write_raw(name, d.type, values, rows);
  const std::int64_t block_rows = std::max<std::int64_t>(1, block_elements / d.columns);
  std::vector<bf16> block(static_cast<std::size_t>(std::min(block_rows, rows) * d.columns));
  for (std::int64_t r = 0; r < rows; r += block_rows) {
    const std::int64_t n = std::min(block_rows, rows - r);
    convert(values + r * d.columns, n * d.columns, block.data());
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

void Hdf5File::close() {
  UPCYCLE_CHECK(file_ >= 0, "{}: closed twice", path_);
  const Where where{path_, writing_};
  if (writing_) {
    for (const auto& [name, d] : declared_)
      UPCYCLE_CHECK(d.written == d.rows, "{}: {}: {} rows written, {} declared", path_, name, d.written, d.rows);
    check(H5Fflush(file_, H5F_SCOPE_GLOBAL), where, "flush the file");
  }
  check(H5Fclose(std::exchange(file_, -1)), where, "close the file");
  if (std::exchange(writing_, false)) fsync_file(path_);
}

std::vector<Hdf5Dataset> Hdf5File::list() const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  const Where where{path_, writing_};
  std::vector<Hdf5Dataset> result;
  for (const std::string& name : dataset_names(file_, where)) {
    Opened opened = open_dataset(file_, name, where);
    opened.facts.attributes = read_attribute_list(opened.dataset, name, where);
    result.push_back(std::move(opened.facts));
  }
  return result;
}

Hdf5Attributes Hdf5File::attributes() const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  const Where where{path_, writing_};
  const Handle root(H5Gopen2(file_, "/", H5P_DEFAULT), H5Gclose, where, "open the root group");
  return read_attribute_list(root, "/", where);
}

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

}  // namespace upcycle
