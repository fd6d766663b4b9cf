#include "data/hdf5.h"

#include <hdf5.h>

#include <utility>
#include <vector>

#include "core/check.h"
#include "data/files.h"
#include "data/hdf5_attributes.h"
#include "data/hdf5_dataset.h"
#include "data/hdf5_handle.h"

namespace upcycle {
namespace {

void prepare_library() {
  // We close every file ourselves; HDF5's cleanup at exit crashes after a failed close (full disk). The call fails,
  // harmlessly, if the program's own use of HDF5 made it before or has initialized the library.
  [[maybe_unused]] static const herr_t once = H5dont_atexit();
  // No code is loaded because a file asks for it (a filter of its groups; those of datasets are refused).
  [[maybe_unused]] static const herr_t no_plugins = H5PLset_loading_state(0);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // else HDF5 prints its error stack on standard error
}

Handle make_file_access(const Where& where) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, where, "set up file access");
  // Format 1.8 has checksummed metadata and is read by every HDF5 of the last fifteen years.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), where, "set up file access");
  // An object left open would keep the file open past H5Fclose: make that an error.
  check(H5Pset_fclose_degree(access, H5F_CLOSE_SEMI), where, "set up file access");
  // Small writes go to the file at once: kept in a buffer, they would be lost without an error where a later call can
  // not write them.
  check(H5Pset_sieve_buf_size(access, 0), where, "set up file access");
  // Run folders have their own lock, and parallel file systems often refuse HDF5's.
  check(H5Pset_file_locking(access, false, true), where, "set up file access");
  return access;
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
  create_file(path)
      .close_checked();  // gives a plain error (no such folder, no permission) where HDF5's would be obscure
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

}  // namespace upcycle
