#include "data/tokenizer.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// The library sentencepiece, on what our check lets through.
void one(std::string_view input) {
  if (input.empty() || input[0] == '{') return;
  fuzz::may_refuse([&] {
    const auto tokenizer = open_tokenizer(fuzz::file_with(input));
    for (const std::string_view text : {"", "the river ran", "\xe2\x96\x81 \xff\xef\xbc\xa1 (1) \xe3\x8e\x8f"})
      (void)tokenizer->decode(tokenizer->encode(text));
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(tokenizer, upcycle::one)
