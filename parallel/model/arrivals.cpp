#include "parallel/model/arrivals.h"

#include <exception>
#include <limits>

#include "core/abort.h"
#include "core/check.h"

namespace upcycle {

Arrivals::~Arrivals() {
  if (std::uncaught_exceptions() > 0) return;
  try {
    for (; arrived_ < parts_.size(); ++arrived_) finish(parts_[arrived_].event);
  } catch (const std::exception& e) {
    abort_job(e.what());
  }
}

void Arrivals::add(std::int64_t part, const Event& event) {
  UPCYCLE_CHECK(parts_.empty() || parts_.back().part <= part, "part {} of the weights after part {}", part,
                parts_.back().part);
  parts_.push_back({part, event});
}

void Arrivals::wait(Stream& stream, std::int64_t part) {
  for (; arrived_ < parts_.size() && parts_[arrived_].part <= part; ++arrived_) stream.wait(parts_[arrived_].event);
  if (arrived_ < parts_.size()) return;
  parts_.clear();
  arrived_ = 0;
}

void Arrivals::wait_all(Stream& stream) { wait(stream, std::numeric_limits<std::int64_t>::max()); }

}  // namespace upcycle
