#pragma once
#include <functional>
#include <optional>
#include <string>

#include "core/error.h"
#include "parallel/comm/communicator.h"

namespace upcycle {

// An InputError that every rank of the world threw with the same text: rank 0 prints it, all finalize and exit with 2.
// A plain InputError caught at the top is one that only this rank may know of: it must end in abort_all.
struct AgreedError : InputError {
  using InputError::InputError;
};

// The message of the first rank that failed, on every rank; nullopt if none did. A collective call.
std::optional<std::string> first_failure(Communicator& world, const std::optional<std::string>& mine);

// Runs a check that may throw InputError on any rank, then agrees: either it passed everywhere, or every rank throws
// AgreedError with the message of the first rank that failed. A collective call; `local_check` itself must make none.
// Other exceptions pass through on their rank only, and end in abort_all.
void agree_or_throw(Communicator& world, const std::function<void()>& local_check);

}  // namespace upcycle
