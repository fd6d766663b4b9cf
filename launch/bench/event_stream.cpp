#include "launch/bench/event_stream.h"

namespace upcycle {
namespace {

constexpr std::size_t kLongestLine = 1 << 20;

// False for a line that is no part of such a stream.
bool read_line(std::string_view line, const std::function<void(std::string_view)>& message) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.empty() || line.starts_with(':')) return true;
  const std::size_t colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  if (field != "data") return field == "event" || field == "id" || field == "retry";
  std::string_view value = colon == line.npos ? "" : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  message(value);
  return true;
}

}  // namespace

bool EventStream::feed(std::string_view bytes, const std::function<void(std::string_view)>& message) {
  while (!bytes.empty() && !broken_) {
    const std::size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    if (end == bytes.npos) {
      broken_ = line_.size() > kLongestLine;
      break;
    }
    bytes.remove_prefix(end + 1);
    broken_ = !read_line(line_, message);
    line_.clear();
  }
  return !broken_;
}

}  // namespace upcycle
