#include "parallel/models/hf_config.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// What is accepted can be written again, where any family has words for it.
void one(std::string_view input) {
  fuzz::may_refuse([&] {
    const HfConfig c = parse_hf_config(std::string(input), "config.json");
    (void)parse_hf_config(write_hf_config(c.model, StoredType::F32, "x"), "again.json");
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(hf_config, upcycle::one)
