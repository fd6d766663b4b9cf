#include "launch/document_cuts.h"

#include <cstddef>

namespace upcycle {

std::vector<std::int64_t> cut_long(const std::vector<std::int64_t>& starts, std::int64_t longest) {
  std::vector<std::int64_t> cuts;
  for (std::size_t d = 0; d + 1 < starts.size(); ++d) {
    cuts.push_back(starts[d]);
    for (std::int64_t at = starts[d] + longest; longest > 0 && at < starts[d + 1]; at += longest) cuts.push_back(at);
  }
  cuts.push_back(starts.back());
  return cuts;
}

}  // namespace upcycle
