#pragma once
#include "core/config/config.h"
#include "launch/backend.h"

namespace upcycle {

// Times each op of a layer, of the head and of the optimizer at the config's shapes on one rank (T = one microbatch),
// against its roofline on this backend: FLOPs at the speed of large matrix products, bytes (every tensor once) at the
// speed of a large copy, both measured first. Prints a table, or one JSON object.
void bench_ops(const Backend& backend, const Config& config, double seconds_an_op, bool json);

}  // namespace upcycle
