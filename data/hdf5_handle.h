#pragma once
#include <hdf5.h>

#include <cstdint>
#include <string>
#include <utility>

// Checked calls of the HDF5 library; only for hdf5*.cpp.
namespace upcycle {

static_assert(sizeof(hid_t) == sizeof(std::int64_t));

// Decides who is to blame for a failure: files read come from the user, files written from us.
struct Where {
  const std::string& path;
  bool writing;
};

// Throws InputError if the file is being read, Error if it is being written, with the library's innermost message.
[[noreturn]] void fail_hdf5(const Where& where, const std::string& what);

template <class Status>
Status check(Status status, const Where& where, const std::string& what) {
  if (status < 0) fail_hdf5(where, what);
  return status;
}

// An id, closed on destruction.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const Where& where, const std::string& what) : id_(id), close_(close) {
    check(id, where, what);
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  operator hid_t() const { return id_; }
  // What a library still holds back is written when its object is closed.
  void close_checked(const Where& where, const std::string& what) {
    check(close_(std::exchange(id_, -1)), where, what);
  }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Creation properties of a kind of object (H5P_...), without timestamps, which would give equal checkpoints different
// checksums.
Handle make_properties(hid_t kind, const Where& where);

}  // namespace upcycle
