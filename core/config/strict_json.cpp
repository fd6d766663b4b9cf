#include "core/config/strict_json.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

using nlohmann::json;

std::string line_and_column(const std::string& text, std::size_t byte) {
  std::size_t line = 1, column = 1;
  for (std::size_t i = 0; i + 1 < byte && i < text.size(); ++i) {
    column = text[i] == '\n' ? 1 : column + 1;
    line += text[i] == '\n';
  }
  return fmt::format("line {}, column {}", line, column);
}

// Where brackets outside of texts are first nested deeper than allowed; npos: nowhere.
std::size_t too_deep_at(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    if (c == '"') quoted = !quoted;
    if (quoted) continue;
    if (c == ']' || c == '}') --depth;
    if ((c == '[' || c == '{') && ++depth > json_depth_max) return i;
  }
  return std::string_view::npos;
}

}  // namespace

// The library's text reads "[json.exception.parse_error.101] parse error at line 1, column 5: what; last read: '...'".
std::string json_error_reason(const std::string& what) {
  std::size_t begin = what.find("] ");
  begin = begin == std::string::npos ? 0 : begin + 2;
  const std::size_t colon = what.find(": ", begin);
  if (what.compare(begin, 11, "parse error") == 0 && colon != std::string::npos) begin = colon + 2;
  std::string reason = what.substr(begin);
  // The token is the file's, and may hold the library's own words.
  const std::size_t last_read = reason.find("; last read: "), expected = reason.rfind("'; expected ");
  if (last_read != std::string::npos) {
    const std::size_t begins = last_read + 13,
                      ends = expected == std::string::npos || expected < begins ? reason.size() : expected + 1;
    reason = reason.substr(0, last_read) + " at " + quote_text(std::string_view(reason).substr(begins, ends - begins)) +
             reason.substr(ends);
  }
  std::replace_if(
      reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return reason.size() > 300 ? reason.substr(0, 300) + "..." : reason;
}

bool nested_too_deeply(std::string_view text) { return too_deep_at(text) != std::string_view::npos; }

json parse_strict_json(const std::string& text, const std::string& where) {
  if (const std::size_t at = too_deep_at(text); at != std::string::npos)
    input_error("{}: {}: found more than {} lists and objects within each other, expected fewer; mend the file there",
                where, line_and_column(text, at + 1), json_depth_max);
  std::vector<std::set<std::string>> open;  // keys so far of every open object
  const auto refuse_duplicates = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second)
      input_error("{}: key {} is given twice in one object; remove one", where,
                  quote_text(parsed.get_ref<const std::string&>()));
    return true;
  };
  try {
    return json::parse(text, refuse_duplicates);
  } catch (const json::parse_error& e) {
    input_error("{}: {}: not JSON: {}; mend the file there", where, line_and_column(text, e.byte),
                json_error_reason(e.what()));
  } catch (const json::exception& e) {
    input_error("{}: not JSON that can be held: {}; mend the file", where, json_error_reason(e.what()));
  }
}

std::string read_config_file(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    input_error("{}: found no such file, expected a JSON config; give its path", path);
  if (std::filesystem::is_directory(status))
    input_error("{}: found a directory, expected a JSON config file; give the file's path", path);
  const auto refuse = [&](std::uintmax_t bytes) {
    input_error("{}: found {} bytes or more, expected a config of at most {} bytes; is it the right file?", path, bytes,
                config_bytes_max);
  };
  if (std::filesystem::is_regular_file(status)) {
    const std::uintmax_t bytes = std::filesystem::file_size(path, error);
    if (!error && bytes > config_bytes_max) refuse(bytes);
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) input_error("{}: can not be opened: {}; check its permissions", path, std::strerror(errno));
  // A pipe has no size beforehand, and a file may grow: one byte more than allowed is enough to know.
  std::string text(config_bytes_max + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) input_error("{}: can not be read: {}", path, std::strerror(errno));
  if (text.size() > config_bytes_max) refuse(text.size());
  return text;
}

}  // namespace upcycle
