#pragma once
#include <memory>

#include "core/device.h"

namespace upcycle {

// The GPU with this index. Its streams do not wait for one another or for the host; an Event of one stream is waited
// for by other streams on the device. InputError if there is no such GPU.
std::unique_ptr<Device> make_cuda_device(int index);

}  // namespace upcycle
