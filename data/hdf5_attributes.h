#pragma once
#include "data/hdf5.h"
#include "data/hdf5_handle.h"

namespace upcycle {

void write_attribute_list(hid_t object, const Hdf5Attributes& attributes, const Where& where);
// Integers and fixed-length texts, 1 MiB at most; anything else is an InputError that names the object `of`.
Hdf5Attributes read_attribute_list(hid_t object, const std::string& of, const Where& where);

}  // namespace upcycle
