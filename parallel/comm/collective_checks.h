#pragma once
#include <cstdint>
#include <span>

#include "parallel/comm/communicator.h"

// The argument checks of collectives, the same for every backend: a call that is wrong on many ranks is wrong on one.
// Each throws Error naming the group and the call.
namespace upcycle {

void check_all_reduce(const Communicator& group, const Tensor& data);
void check_reduce_scatter(const Communicator& group, const Tensor& out, const Tensor& in);
void check_all_gather(const Communicator& group, const Tensor& out, const Tensor& in);
void check_all_to_all_v(const Communicator& group, const Tensor& out, std::span<const std::int64_t> recv_counts,
                        const Tensor& in, std::span<const std::int64_t> send_counts);
void check_root(const Communicator& group, int root);

}  // namespace upcycle
