#include "parallel/comm/late_looks.h"

#include <atomic>

namespace upcycle {
namespace {
std::atomic<double> late{0};
}

void record_late_look(double seconds) { late.fetch_add(seconds, std::memory_order_relaxed); }
double late_look_seconds() { return late.load(std::memory_order_relaxed); }

}  // namespace upcycle
