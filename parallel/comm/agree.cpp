#include "parallel/comm/agree.h"

#include "core/path_error.h"

namespace upcycle {

void agree_or_throw(Communicator& world, const std::function<void()>& local_check) {
  std::string message;
  bool failed = false;
  try {
    with_path_errors(local_check);
  } catch (const InputError& error) {
    failed = true;
    // What other ranks can not see for themselves: where it is so.
    message = world.rank() == 0 ? error.what() : fmt::format("{}{}", error_origin(), error.what());
  }
  // The first failing rank has the largest distance from the end; 0 means that none failed.
  const double distance = world.max_of(failed ? world.size() - world.rank() : 0);
  if (distance == 0) return;
  throw AgreedError(world.broadcast_text(message, world.size() - static_cast<int>(distance)));
}

}  // namespace upcycle
