#pragma once
#include <string>

namespace upcycle {

std::string hdf5_library();  // "HDF5 1.10.8"

}  // namespace upcycle
