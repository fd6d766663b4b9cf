#include "core/progress.h"

#include <atomic>
#include <cstdint>

namespace upcycle {
namespace {

std::atomic<std::uint64_t> made{0};
thread_local std::uint64_t forwarded = 0;
thread_local std::function<void()> listener;

}  // namespace

void made_progress() {
  made.fetch_add(1, std::memory_order_relaxed);
  forward_progress();
}

void forward_progress() {
  if (!listener) return;
  const std::uint64_t now = made.load(std::memory_order_relaxed);
  if (now == forwarded) return;
  forwarded = now;
  listener();
}

void set_progress_listener(std::function<void()> l) { listener = std::move(l); }

}  // namespace upcycle
