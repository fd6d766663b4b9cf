#include "launch/bench/request_file.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  const auto encode = [](const std::string& text) { return std::vector<std::int32_t>(text.size(), 1); };
  fuzz::may_refuse([&] {
    for (const FileRequest& r : parse_requests(std::string(input), "x.jsonl", 100, encode))
      if (r.prompt_len < 1 || r.output_len < 1) throw std::logic_error("a request of nothing");
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(requests, upcycle::one)
