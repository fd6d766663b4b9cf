#pragma once
#include <cstdint>
#include <vector>

#include "core/device.h"

namespace upcycle {

// Which parts of a model's weights are still on their way from the ranks that updated them. A part is a Bucket::layer;
// parts are added in forward order, and the forward waits for each just before reading it, so that later ones overlap
// with its work. All other readers of the weights wait for all parts.
class Arrivals {
 public:
  Arrivals() = default;
  ~Arrivals();  // blocks the host: the weights' memory may be freed next. Not while an exception passes.
  Arrivals(Arrivals&&) = default;
  Arrivals& operator=(Arrivals&&) = delete;

  void reserve(std::size_t parts) { parts_.reserve(parts); }
  void add(std::int64_t part, const Event& event);
  void wait(Stream& stream, std::int64_t part);  // for the parts up to this one; often nothing is left
  void wait_all(Stream& stream);

 private:
  struct Part {
    std::int64_t part;
    Event event;
  };
  std::vector<Part> parts_;
  std::size_t arrived_ = 0;  // of parts_
};

}  // namespace upcycle
