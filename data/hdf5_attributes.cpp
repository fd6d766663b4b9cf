#include "data/hdf5_attributes.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

constexpr std::size_t max_attribute_bytes = std::size_t{1} << 20;  // ours have two numbers

std::vector<std::string> attribute_names(hid_t object, const Where& where) {
  std::vector<std::string> names;
  const auto take = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    try {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    } catch (...) {
      return -1;  // exceptions must not cross C
    }
  };
  hsize_t begin = 0;
  check(H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, &begin, take, &names), where, "list attributes");
  return names;
}

}  // namespace

void write_attribute_list(hid_t object, const Hdf5Attributes& attributes, const Where& where) {
  for (const auto& [name, values] : attributes.numbers) {
    const hsize_t count = values.size();
    const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose, where, "make attribute " + name);
    const Handle attribute(H5Acreate2(object, name.c_str(), H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                           where, "make attribute " + name);
    if (count > 0) check(H5Awrite(attribute, H5T_NATIVE_INT64, values.data()), where, "write attribute " + name);
  }
  for (const auto& [name, text] : attributes.texts) {
    const Handle type(H5Tcopy(H5T_C_S1), H5Tclose, where, "make attribute " + name);
    check(H5Tset_size(type, std::max<std::size_t>(text.size(), 1)), where, "make attribute " + name);
    check(H5Tset_strpad(type, H5T_STR_NULLPAD), where, "make attribute " + name);
    check(H5Tset_cset(type, H5T_CSET_UTF8), where, "make attribute " + name);
    const Handle space(H5Screate(H5S_SCALAR), H5Sclose, where, "make attribute " + name);
    const Handle attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, where,
                           "make attribute " + name);
    // c_str, because one byte is written even of an empty text.
    check(H5Awrite(attribute, type, text.c_str()), where, "write attribute " + name);
  }
}

Hdf5Attributes read_attribute_list(hid_t object, const std::string& of, const Where& where) {
  Hdf5Attributes result;
  for (const std::string& name : attribute_names(object, where)) {
    const std::string what = fmt::format("read attribute {} of {}", quote_text(name), quote_text(of));
    const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, where, what);
    const Handle type(H5Aget_type(attribute), H5Tclose, where, what);
    const Handle space(H5Aget_space(attribute), H5Sclose, where, what);
    const auto count = static_cast<std::size_t>(check(H5Sget_simple_extent_npoints(space), where, what));
    const H5T_class_t kind = H5Tget_class(type);
    const std::size_t bytes = H5Tget_size(type);
    if (count > max_attribute_bytes / 8 || bytes > max_attribute_bytes)
      input_error("{}: cannot {}: found {} values of {} bytes, expected at most 1 MiB", where.path, what, count, bytes);
    if (kind == H5T_INTEGER) {
      std::vector<std::int64_t>& values = result.numbers[name];
      values.resize(count);
      if (count > 0) check(H5Aread(attribute, H5T_NATIVE_INT64, values.data()), where, what);
    } else if (kind == H5T_STRING && H5Tis_variable_str(type) == 0 && count == 1) {
      std::string& text = result.texts[name];
      text.resize(bytes);
      check(H5Aread(attribute, type, text.data()), where, what);
      text.erase(std::find(text.begin(), text.end(), '\0'), text.end());
    } else {
      input_error("{}: cannot {}: found another type, expected whole numbers or one text of fixed length", where.path,
                  what);
    }
  }
  return result;
}

}  // namespace upcycle
