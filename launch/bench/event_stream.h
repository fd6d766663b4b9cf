#pragma once
#include <functional>
#include <string>
#include <string_view>

namespace upcycle {

// Server-sent events (HTML standard, 9.2), as OpenAI's interface streams them: each "data: ..." line is a message.
class EventStream {
 public:
  // Bytes as they come, in any pieces. False once there was a line that no such stream has; what follows is ignored.
  bool feed(std::string_view bytes, const std::function<void(std::string_view)>& message);

 private:
  std::string line_;  // its beginning
  bool broken_ = false;
};

}  // namespace upcycle
