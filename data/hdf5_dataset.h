#pragma once
#include <string>
#include <vector>

#include "data/hdf5.h"
#include "data/hdf5_handle.h"

// What a dataset of ours is: numbers that lie contiguous in the file itself, under one name. All else that HDF5 offers
// is refused, for a checksum of the file says nothing of it: other files (external storage, links, virtual datasets),
// code that plugins bring (filters), numbers that nobody wrote (unallocated storage, read as a fill value).
namespace upcycle {

struct Opened {
  Handle dataset;
  Hdf5Dataset facts;
};

Handle make_type(DType type, const Where& where);  // F32, little-endian, or BF16

// InputError, before any of its numbers is read: a link other than a plain one on the way to it, another layout, shape
// or number type, storage that does not have the shape's bytes or does not lie in the file.
Opened open_dataset(hid_t file, const std::string& name, const Where& where);

// Of the whole file, sorted. InputError where it holds anything but groups and datasets, each linked to once.
std::vector<std::string> dataset_names(hid_t file, const Where& where);

// Of a dataset's space: what is read or written next.
void select_rectangle(hid_t space, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                      const Where& where);

// Values that are converted on their way are converted in blocks of at most so many: 1 MiB of floats.
constexpr std::int64_t kBlockElements = std::int64_t{1} << 18;

}  // namespace upcycle
