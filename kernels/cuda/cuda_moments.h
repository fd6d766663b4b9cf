#pragma once
#include <memory>

#include "core/device.h"

namespace upcycle {

// Events with timing, as many as are recorded: profiles need no CUPTI.
std::unique_ptr<Moments> make_cuda_moments(int device);

}  // namespace upcycle
