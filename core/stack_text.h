#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace upcycle {

// Return addresses of a process of this host in words, "upcycle::train_step(...)+0x1c in upcycle" each, from the
// symbols of the files that it has mapped; where a file has none, the place in the file, which addr2line knows. Not for
// signal handlers.
std::vector<std::string> stack_text(int process, std::span<const std::uint64_t> addresses);

}  // namespace upcycle
