#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace upcycle {

inline constexpr std::size_t config_bytes_max = 1 << 20;

// Parses `text`; throws InputError with `where`, line and column for a syntax error, and for duplicate keys, which
// JSON libraries commonly accept by forgetting the first.
nlohmann::json parse_strict_json(const std::string& text, const std::string& where);

// Reads a small text file; throws InputError if it is missing, not a file, or longer than config_bytes_max bytes (the
// rest is not read).
std::string read_config_file(const std::string& path);

}  // namespace upcycle
