#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace upcycle {

// Edits (insert, delete, replace, swap of neighbours) that turn a into b. Damerau 1964, Levenshtein 1966.
int edit_distance(std::string_view a, std::string_view b);

// The known word that a mistyped `word` most likely meant; "" when none is near. Dotted words are also compared by
// their last part, so that a key of the wrong section is found.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// A user's text for a one-line message: quoted, control characters escaped, long text cut.
std::string quote_text(std::string_view text);

}  // namespace upcycle
