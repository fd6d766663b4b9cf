#include "launch/study/study.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  fuzz::may_refuse([&] { (void)parse_study(std::string(input), "x.json", {}); });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(study, upcycle::one)
