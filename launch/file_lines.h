#pragma once
#include <functional>
#include <string>

namespace upcycle {

// Shows each line that is not blank, without its end, and "FILE:LINE" for messages about it. InputError where the file
// is no UTF-8 text or has no such line; `of`: what the lines are, for that message.
using TakeLine = std::function<void(const std::string& where, const std::string& line)>;
void for_each_line(const std::string& file, const std::string& of, const TakeLine& take);

}  // namespace upcycle
