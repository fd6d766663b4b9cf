#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/hdf5.h"

namespace upcycle {

// What a file holds, with the place of each dataset's numbers, from which they can be read without the HDF5 library.
struct Hdf5Listing {
  struct Dataset : Hdf5Dataset {
    std::uint64_t offset = 0;  // of its first number in the file; rows * columns of them lie there, inside the file
  };
  std::string path;
  Hdf5Attributes attributes;  // of the file itself
  std::vector<Dataset> datasets;
};

// For files from elsewhere: the library, which has had errors that a file can reach, reads it in a copy of this process
// that has no rights (without_rights.h). What the copy says is believed as far as the file would be. InputError where
// the file is damaged, not one of ours, or has the library crash or take too much. On the thread of all HDF5 calls.
Hdf5Listing list_hdf5(const std::string& path);

}  // namespace upcycle
