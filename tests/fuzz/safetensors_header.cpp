#include "data/safetensors_header.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// Two bytes: how much data follows the header. The rest is the header.
void one(std::string_view input) {
  if (input.size() < 2) return;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(input[i]); };
  fuzz::may_refuse([&] {
    const std::uint64_t data_bytes = byte(0) + 256u * byte(1);
    for (const auto& [name, t] : parse_safetensors_header(input.substr(2), data_bytes, "x.safetensors").tensors)
      if (t.begin > t.end || t.end > data_bytes || t.rows < 0 || t.columns < 0)
        throw std::logic_error("a tensor outside of the data: " + name);
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(safetensors_header, upcycle::one)
