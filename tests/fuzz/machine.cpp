#include "parallel/serve/machine.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  fuzz::may_refuse([&] {
    if (!possible(parse_machine(std::string(input), "x.json"))) throw std::logic_error("an impossible machine");
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(machine, upcycle::one)
