#include "data/hdf5.h"

#include <vector>

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// The HDF5 library, called as checkpoints are read.
void one(std::string_view input) {
  fuzz::may_refuse([&] {
    Hdf5File file = Hdf5File::open_read(fuzz::file_with(input));
    (void)file.attributes();
    for (const Hdf5Dataset& d : file.list()) {
      if (d.rows > 0 && d.columns > 0 && file.offset_of(d) > input.size())
        throw std::logic_error("values outside of the file: " + d.name);
      std::vector<float> row(static_cast<std::size_t>(d.rows > 0 ? d.columns : 0));
      if (!row.empty()) file.read(d.name, 0, 1, 0, d.columns, row.data());
    }
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(hdf5, upcycle::one)
