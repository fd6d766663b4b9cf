#pragma once
#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/host_group.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

// A rectangle of a tensor that somebody needs. take() gets it in parts: whole rows of it, from the first to the last,
// packed. The values are shared with other wants, and valid only during the call.
struct Want {
  std::string tensor;
  Rectangle part;
  std::function<void(const Rectangle& part, const float* values)> take;
};

// Reads what is wanted through a buffer of at most `buffer_bytes` (more where one row is longer), each byte once,
// however many want it. Tensors come in the order of their first want, rows from the first to the last. With `host` a
// call of all its ranks: they share the buffer and the reading, so a host reads each byte once; and each rank reads
// ahead, on the I/O thread, while it takes what is there. The source must be the same on all of them.
void read_once(TensorSource& source, const std::vector<Want>& wants, const HostGroup* host, std::size_t buffer_bytes);

}  // namespace upcycle
