#include "data/hdf5_handle.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

std::string innermost_message() {
  std::string text = "unknown cause";
  const auto take_first = [](unsigned n, const H5E_error2_t* entry, void* out) -> herr_t {
    if (n == 0 && entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text);
  H5Eclear2(H5E_DEFAULT);
  // Of a system call it is a list of what the library knows; the reader wants "No space left on device".
  const std::string before = "error message = '";
  if (const std::size_t at = text.find(before); at != text.npos)
    text = text.substr(at + before.size(), text.find('\'', at + before.size()) - at - before.size());
  // Some messages contain a date with a newline; ours are one line.
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text;
}

}  // namespace

void fail_hdf5(const Where& where, const std::string& what) {
  const std::string cause = innermost_message();
  if (!where.writing)
    input_error("{}: cannot {}: {}; the file is damaged, or not one of ours", where.path, what, cause);
  throw_error(__FILE__, __LINE__, "HDF5", fmt::format("{}: cannot {}: {}", where.path, what, cause));
}

Handle make_properties(hid_t kind, const Where& where) {
  Handle properties(H5Pcreate(kind), H5Pclose, where, "set up properties");
  check(H5Pset_obj_track_times(properties, false), where, "set up properties");
  return properties;
}

}  // namespace upcycle
