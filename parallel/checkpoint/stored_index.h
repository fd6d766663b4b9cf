#pragma once
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"

namespace upcycle {

struct Hdf5Listing;

// One stored rectangle: dataset "NAME/`number`" of file `file` (index into Manifest::files), its values row-major in
// one piece from byte `offset` on.
struct StoredRectangle {
  int file = 0, number = 0;
  Rectangle part;
  std::uint64_t offset = 0;
  DType type = DType::F32;  // or BF16
};

// Where every tensor's rectangles are, masters and moments. Index: kind * tensors + tensor.
class StoredIndex {
 public:
  StoredIndex() = default;
  explicit StoredIndex(const Manifest& manifest) : by_tensor_(3 * manifest.tensors.size()) {}

  const std::vector<StoredRectangle>& of(StateKind kind, std::size_t tensor) const {
    return by_tensor_[static_cast<std::size_t>(kind) * (by_tensor_.size() / 3) + tensor];
  }
  // Lists the datasets of an open rank file and checks each against the manifest. InputError. On the HDF5 thread.
  void add_file(const Manifest& manifest, int file, const Hdf5Listing& open);
  // All that add_file found, as text, for other ranks.
  std::string text() const;
  void replace_with(const std::string& text);
  // How many moments its optimizer kept: the kinds of which anything is listed.
  int moments() const;
  // Every tensor is covered without hole or overlap, each moment wholly or, where the checkpoint has none, not at all.
  // `folder` is for messages.
  void check_tiling(const Manifest& manifest, const std::string& folder, bool weights_only) const;

 private:
  std::vector<std::vector<StoredRectangle>> by_tensor_;
};

}  // namespace upcycle
