#pragma once
#include <cstdint>
#include <vector>

namespace upcycle {

// The documents of a set (TokenSet::document_starts) with those longer than that cut into pieces of so many tokens; 0:
// none is cut. Piece i is tokens [cuts[i], cuts[i + 1]).
std::vector<std::int64_t> cut_long(const std::vector<std::int64_t>& starts, std::int64_t longest);

}  // namespace upcycle
