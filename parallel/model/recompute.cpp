#include "parallel/model/recompute.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {

Recompute recompute_of(std::string_view value) {
  Recompute r;
  if (value == "none") return r;
  if (value == "selective") value = "swiglu,norms";
  while (!value.empty()) {
    const std::string_view name = value.substr(0, value.find(','));
    value.remove_prefix(std::min(value.size(), name.size() + 1));
    UPCYCLE_CHECK(name == "full" || name == "attention" || name == "swiglu" || name == "mlp" || name == "norms",
                  "'{}' is no class of activations", name);
    r.attention |= name == "attention";
    r.swiglu |= name == "swiglu" || name == "mlp";
    r.mlp |= name == "mlp";
    r.norms |= name == "norms";
    r.layer |= name == "full";
  }
  return r;
}

}  // namespace upcycle
