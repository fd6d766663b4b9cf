#include "parallel/checkpoint/latest.h"

#include "parallel/checkpoint/manifest.h"
#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  const Latest latest = parse_named_step(std::string(input), "x/latest");
  if (!latest.step.empty() && !is_step_folder_name(latest.step))
    throw std::logic_error("no step's folder: " + latest.step);
  if (latest.damage.find('\n') != latest.damage.npos) throw std::logic_error("more than one line: " + latest.damage);
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(latest, upcycle::one)
