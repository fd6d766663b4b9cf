#include "launch/predicted_bytes.h"

#include <algorithm>

namespace upcycle {

std::vector<std::int64_t> predicted_bytes(const TokenSet& set, const EvalWindows& windows, const Tokenizer& tokenizer,
                                          const std::vector<std::int64_t>& cuts) {
  constexpr std::int64_t kPiece = 1 << 16;
  std::vector<std::int32_t> ids(kPiece), targets(kPiece);
  bool at_start = true;
  set.read(0, 1, ids.data());
  (void)tokenizer.decoded_bytes(std::span(ids).first(1), at_start);
  std::vector<std::int64_t> bytes;
  for (std::size_t part = 0; part + 1 < cuts.size(); ++part) {
    bytes.push_back(0);
    for (std::int64_t first = std::max<std::int64_t>(1, cuts[part]); first < cuts[part + 1]; first += kPiece) {
      const std::int64_t n = std::min(kPiece, cuts[part + 1] - first);
      set.read(first, n, ids.data());
      windows.read_targets(first, n, targets.data());
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        const std::int64_t more = tokenizer.decoded_bytes(std::span(ids).subspan(i, 1), at_start);
        if (targets[i] >= 0) bytes.back() += more;
      }
    }
  }
  return bytes;
}

}  // namespace upcycle
