#pragma once
#include <string>
#include <vector>

#include "data/hdf5.h"
#include "data/hdf5_handle.h"

// Our datasets: numbers stored contiguously in the file itself, under one name. Everything else that HDF5 offers is
// refused, because the file's checksum does not cover it: other files (external storage, links, virtual datasets),
// plugin code (filters), numbers that were never written (unallocated storage, read as a fill value).
namespace upcycle {

struct Opened {
  Handle dataset;
  Hdf5Dataset facts;
};

Handle make_type(DType type, const Where& where);  // F32, little-endian, or BF16

// InputError, before any number is read: a path through anything but hard links, another layout, shape or number type,
// or storage that has not the shape's size or is not inside the file.
Opened open_dataset(hid_t file, const std::string& name, const Where& where);

// Of the whole file, sorted. InputError if it holds anything but groups and datasets, each linked to once.
std::vector<std::string> dataset_names(hid_t file, const Where& where);

// Selects the part of a dataset's space that is read or written next.
void select_rectangle(hid_t space, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                      const Where& where);

// Values that need conversion are converted in blocks of at most this many: 1 MiB of floats.
constexpr std::int64_t kBlockElements = std::int64_t{1} << 18;

}  // namespace upcycle
