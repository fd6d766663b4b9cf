#include "parallel/comm/sum_over_ranks.h"

#include "core/arena.h"

namespace upcycle {

void sum_over_ranks(std::vector<double>& values, Communicator& group, Device& device, Stream& stream) {
  Arena arena("sums over ranks");
  const auto take = [&] { return arena.take(DType::F64, {static_cast<std::int64_t>(values.size())}); };
  (void)take();
  arena.allocate(device);
  const Tensor all = take();
  device.copy_from_host(stream, all.data, values.data(), all.bytes());
  stream.wait(group.all_reduce(all));
  device.copy_to_host(stream, values.data(), all.data, all.bytes());
  stream.synchronize();
}

}  // namespace upcycle
