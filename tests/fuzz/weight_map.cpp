#include "data/weight_map.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  fuzz::may_refuse([&] {
    for (const auto& [tensor, file] : parse_weight_map(std::string(input), "x.index.json"))
      if (file.find('/') != file.npos || file == ".." || file.empty())
        throw std::logic_error("a file outside of the folder: " + file);
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(weight_map, upcycle::one)
