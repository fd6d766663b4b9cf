#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace upcycle {

inline constexpr std::size_t config_bytes_max = 1 << 20;

// Parses `text`; throws InputError with `where`, line and column for a syntax error, and for duplicate keys, which
// JSON libraries commonly accept by forgetting the first.
nlohmann::json parse_strict_json(const std::string& text, const std::string& where);

// A small text file as a whole; throws InputError when it is missing, no file, or past config_bytes_max bytes, which
// is known before it is read.
std::string read_config_file(const std::string& path);

}  // namespace upcycle
