#include <hdf5.h>

#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hdf5.h"

namespace upcycle {

std::uint64_t Hdf5File::offset_of(const Hdf5Dataset& dataset) const {
  UPCYCLE_CHECK(file_ >= 0, "{}: is closed", path_);
  haddr_t begin = HADDR_UNDEF;  // what HDF5 says of external storage and of every layout but the contiguous one
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
