#pragma once
#include <memory>

#include "core/device.h"

namespace upcycle {

// The GPU with this index. Its streams do not wait for one another or for the host; an Event that a stream records is a
// point of it that other streams wait for on the device. InputError where there is no such GPU.
std::unique_ptr<Device> make_cuda_device(int index);

}  // namespace upcycle
