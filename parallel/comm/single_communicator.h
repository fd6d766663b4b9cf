#pragma once
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace upcycle {

// A group of one, without MPI or NCCL: copies at most, of host memory, or of a device's on the stream.
std::unique_ptr<Communicator> make_single_communicator(std::string name);
std::unique_ptr<Communicator> make_single_communicator(std::string name, Device& device, Stream& stream);

}  // namespace upcycle
