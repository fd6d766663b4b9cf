#include "parallel/comm/agree.h"

#include "core/error.h"
#include "core/path_error.h"

namespace upcycle {

std::optional<std::string> first_failure(Communicator& world, const std::optional<std::string>& mine) {
  // The first rank that failed has the largest distance from the end; 0 means that none did.
  const double distance = world.max_of(mine ? world.size() - world.rank() : 0);
  if (distance == 0) return std::nullopt;
  return world.broadcast_text(mine.value_or(""), world.size() - static_cast<int>(distance));
}

void agree_or_throw(Communicator& world, const std::function<void()>& local_check) {
  std::optional<std::string> failure;
  try {
    with_path_errors(local_check);
  } catch (const InputError& error) {
    // Rank 0 will print it: name the rank that it comes from.
    failure = world.rank() == 0 ? error.what() : fmt::format("{}{}", error_origin(), error.what());
  }
  if (const auto first = first_failure(world, failure)) throw AgreedError(*first);
}

}  // namespace upcycle
