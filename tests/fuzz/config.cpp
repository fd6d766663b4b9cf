#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// What is accepted reads back the same.
void one(std::string_view input) {
  fuzz::may_refuse([&] {
    const Config c = parse_config_text(std::string(input), "x.json", {});
    if (to_json(parse_config_text(to_json(c), "again.json", {})) != to_json(c))
      throw std::logic_error("another config is read back");
    check_model(c.model, "x.json");
    check_train(c, {});
    check_data(c);
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(config, upcycle::one)
