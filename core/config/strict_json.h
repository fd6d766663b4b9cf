#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace upcycle {

inline constexpr std::size_t config_bytes_max = 1 << 20;

// Lists and objects within each other. Copying or printing a JSON value takes a stack as deep as it is nested, so a
// text of brackets alone could end the process.
inline constexpr int json_depth_max = 256;
// Whether they are nested deeper; to be asked before a text from elsewhere is parsed by other means than below. Reads
// the text once, allocates nothing, takes any bytes.
bool nested_too_deeply(std::string_view text);

// Parses `text`; throws InputError with `where`, line and column for a syntax error, for more than json_depth_max, and
// for duplicate keys, which JSON libraries commonly accept by forgetting the first.
nlohmann::json parse_strict_json(const std::string& text, const std::string& where);

// What such a library says of a text that is not JSON, in one line of at most some 300 bytes, without control
// characters.
std::string json_error_reason(const std::string& what);

// Reads a small text file; throws InputError if it is missing, not a file, or longer than config_bytes_max bytes (the
// rest is not read).
std::string read_config_file(const std::string& path);

}  // namespace upcycle
