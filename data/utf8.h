#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

// UTF-8 by RFC 3629: no overlong forms, surrogates or code points past U+10FFFF.
namespace upcycle {

// Bytes before the first that is not part of a whole character; text.size() where all is valid.
std::size_t valid_utf8(std::string_view text);

// Bytes at the end that begin a character whose rest may follow; 0 to 3.
std::size_t unfinished_utf8(std::string_view text);

// The text with U+FFFD for each maximal part of a character that is broken, as Unicode recommends and Python does it;
// `replaced` is raised by their number.
std::string replaced_utf8(std::string_view text, std::int64_t& replaced);

// A JSON text with \ufffd for each \u escape that is half a surrogate pair.
std::string replaced_surrogates(std::string_view json, std::int64_t& replaced);

}  // namespace upcycle
