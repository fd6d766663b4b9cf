#include "data/hdf5_dataset.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"

static_assert(std::endian::native == std::endian::little, "datasets are little-endian and moved as they are");

namespace upcycle {
namespace {

const char* name_of_link(H5L_type_t type) {
  switch (type) {
    case H5L_TYPE_SOFT:
      return "a soft link";
    case H5L_TYPE_EXTERNAL:
      return "an external link, to another file";
    default:
      return "a link of a kind of its own";
  }
}

const char* name_of_layout(H5D_layout_t layout) {
  switch (layout) {
    case H5D_COMPACT:
      return "compact storage";
    case H5D_CHUNKED:
      return "chunked storage";
    case H5D_VIRTUAL:
      return "a virtual dataset, of other datasets";
    default:
      return "storage of another kind";
  }
}

[[noreturn]] void refuse(const Where& where, const std::string& what, const std::string& found,
                         const std::string& expected) {
  input_error("{}: cannot {}: found {}, expected {}; the file is damaged, or not one of ours", where.path, what, found,
              expected);
}

std::string reading(const std::string& name) { return "read dataset " + quote_text(name); }

// Opening a name follows links, including those of its parent groups.
void check_way(hid_t file, const std::string& name, const Where& where) {
  for (std::size_t end = name.find('/');; end = name.find('/', end + 1)) {
    const std::string part = name.substr(0, end);
    H5L_info_t link{};
    check(H5Lget_info(file, part.c_str(), &link, H5P_DEFAULT), where, reading(name));
    if (link.type != H5L_TYPE_HARD)
      refuse(where, "read " + quote_text(part), name_of_link(link.type), "a group or dataset of this file");
    if (end == name.npos) return;
  }
}

std::string external_files(hid_t properties, int count, const Where& where, const std::string& what) {
  char file[4096] = {};  // the library ends long names without a 0
  off_t offset = 0;
  hsize_t bytes = 0;
  check(H5Pget_external(properties, 0, sizeof file - 1, file, &offset, &bytes), where, what);
  return fmt::format("external storage, in {}{}", quote_text(file),
                     count > 1 ? fmt::format(" and {} more files", count - 1) : "");
}

// Opens no other file. Reading the shape of a virtual dataset may, so this check comes first.
void check_layout_of(hid_t dataset, const Where& where, const std::string& what) {
  constexpr const char* expected = "contiguous numbers in this file";
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose, where, what);
  if (const int files = check(H5Pget_external_count(properties), where, what); files > 0)
    refuse(where, what, external_files(properties, files, where, what), expected);
  const H5D_layout_t layout = check(H5Pget_layout(properties), where, what);
  const int filters = check(H5Pget_nfilters(properties), where, what);
  std::string found = layout == H5D_CONTIGUOUS ? "" : name_of_layout(layout);
  if (filters > 0)
    found += fmt::format("{}{} filter{}", found.empty() ? "" : " with ", filters, filters > 1 ? "s" : "");
  if (!found.empty()) refuse(where, what, found, expected);
}

// Checks that the shape's bytes lie in the file. While writing, storage is allocated with the first row.
void check_place(hid_t file, const Opened& opened, const Where& where, const std::string& what) {
  const Hdf5Dataset& d = opened.facts;
  if (where.writing || d.rows == 0 || d.columns == 0) return;
  const auto rows = static_cast<hsize_t>(d.rows), columns = static_cast<hsize_t>(d.columns);
  hsize_t bytes = 0, file_bytes = 0;
  check(H5Fget_filesize(file, &file_bytes), where, what);
  if (__builtin_mul_overflow(rows, columns, &bytes) || __builtin_mul_overflow(bytes, size_of(d.type), &bytes) ||
      bytes > file_bytes)
    refuse(where, what, fmt::format("{} x {} numbers in a file of {} bytes", rows, columns, file_bytes),
           "all of them in this file");
  const haddr_t begin = H5Dget_offset(opened.dataset);
  const std::string expected = fmt::format("{} bytes inside the file", bytes);
  if (begin == HADDR_UNDEF) refuse(where, what, "no stored values", expected);
  const hsize_t stored = H5Dget_storage_size(opened.dataset);
  if (stored != bytes || begin > file_bytes || bytes > file_bytes - begin)
    refuse(where, what, fmt::format("{} bytes stored at {} of {}", stored, begin, file_bytes), expected);
}

struct Visit {
  std::vector<std::string> names;
  std::optional<std::pair<std::string, std::string>> refused;  // the name, what was found
};

// Visits one link. Exceptions must not cross C, so the caller reports what is refused.
herr_t visit(hid_t group, const char* name, const H5L_info_t* link, void* out) {
  auto& result = *static_cast<Visit*>(out);
  constexpr herr_t stop = 1;
  try {
    if (link->type != H5L_TYPE_HARD) {
      result.refused.emplace(name, name_of_link(link->type));
      return stop;
    }
    H5O_info_t object{};
    if (H5Oget_info_by_name2(group, name, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0) return -1;
    if (object.type != H5O_TYPE_GROUP && object.type != H5O_TYPE_DATASET) {
      result.refused.emplace(name, object.type == H5O_TYPE_NAMED_DATATYPE ? "a named number type" : "another object");
      return stop;
    }
    if (object.rc != 1) {
      result.refused.emplace(name, fmt::format("{} hard links to it", object.rc));
      return stop;
    }
    if (object.type == H5O_TYPE_DATASET) result.names.emplace_back(name);
    return 0;
  } catch (...) {
    return -1;
  }
}

}  // namespace

Handle make_type(DType type, const Where& where) {
  Handle result(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, where, "make a number type");
  if (type == DType::F32) return result;
  UPCYCLE_CHECK(type == DType::BF16, "HDF5 datasets are fp32 or bf16, not {}", name_of(type));
  check(H5Tset_fields(result, 15, 7, 8, 0, 7), where,
        "make the bf16 type");  // sign, exponent at, size, mantissa at, size
  check(H5Tset_precision(result, 16), where, "make the bf16 type");
  check(H5Tset_size(result, 2), where, "make the bf16 type");
  check(H5Tset_ebias(result, 127), where, "make the bf16 type");
  return result;
}

Opened open_dataset(hid_t file, const std::string& name, const Where& where) {
  const std::string what = reading(name);
  check_way(file, name, where);
  Opened opened{Handle(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, where, what), {}};
  check_layout_of(opened.dataset, where, what);
  const Handle type(H5Dget_type(opened.dataset), H5Tclose, where, what);
  const Handle space(H5Dget_space(opened.dataset), H5Sclose, where, what);
  if (check(H5Tcommitted(type), where, what) > 0)
    refuse(where, what, "a named number type", "one of the dataset's own");
  hsize_t size[2] = {};
  if (H5Sget_simple_extent_ndims(space) != 2 || H5Sget_simple_extent_dims(space, size, nullptr) != 2)
    input_error("{}: cannot {}: found another number of dimensions, expected 2", where.path, what);
  constexpr hsize_t limit = std::numeric_limits<std::int64_t>::max();
  if (size[0] > limit || size[1] > limit)
    input_error("{}: cannot {}: found {} x {}, expected sizes below 2^63", where.path, what, size[0], size[1]);
  opened.facts = {name, static_cast<std::int64_t>(size[0]), static_cast<std::int64_t>(size[1]), DType::F32, {}};
  if (check(H5Tequal(type, make_type(DType::BF16, where)), where, what) > 0)
    opened.facts.type = DType::BF16;
  else if (check(H5Tequal(type, make_type(DType::F32, where)), where, what) == 0)
    input_error("{}: cannot {}: found another number type, expected little-endian fp32 or bf16", where.path, what);
  check_place(file, opened, where, what);
  return opened;
}

std::vector<std::string> dataset_names(hid_t file, const Where& where) {
  Visit result;
  check(H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, visit, &result), where, "list the datasets");
  if (result.refused)
    refuse(where, "read " + quote_text(result.refused->first), result.refused->second,
           "groups and datasets of this file, each linked to 1 time");
  std::sort(result.names.begin(), result.names.end());
  return result.names;
}

void select_rectangle(hid_t space, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                      const Where& where) {
  const hsize_t begin[2] = {static_cast<hsize_t>(row), static_cast<hsize_t>(column)},
                count[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, begin, nullptr, count, nullptr), where, "select a rectangle");
}

}  // namespace upcycle
