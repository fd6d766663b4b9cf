#include "parallel/checkpoint/manifest.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// Inputs of version 1 have no hash of their own, which would refuse nearly every other.
void one(std::string_view input) {
  const std::string text(input);
  (void)damage_of_manifest(text, "x/manifest.json");
  fuzz::may_refuse([&] {
    for (const Checkpoint::FileEntry& file : parse_manifest(text, "x/manifest.json").files)
      if (file.name.find('/') != file.name.npos || file.name == ".." || file.bytes < 0)
        throw std::logic_error("a file outside of the folder: " + file.name);
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(manifest, upcycle::one)
