#include "data/sentencepiece_model.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  fuzz::may_refuse([&] { check_sentencepiece_model(input, "x.model"); });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(sentencepiece_table, upcycle::one)
