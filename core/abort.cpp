#include "core/abort.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace upcycle {
namespace {
std::atomic<AbortHook> abort_hook{nullptr};
}

void set_abort_hook(AbortHook hook) { abort_hook = hook; }

void abort_job(const std::string& failure) {
  std::fprintf(stderr, "upcycle: %s\n", failure.c_str());
  std::fflush(nullptr);
  if (const AbortHook hook = abort_hook) hook(1);
  // Not exit(): destructors of static objects may wait for threads or ranks that will never answer.
  std::_Exit(1);
}

}  // namespace upcycle
