#pragma once
#include "launch/commands.h"

namespace upcycle {

// `bench calibrate`: measures steps of a config's MoE and of its dense base on this machine, with random weights, fits
// a machine file's constants to them, and compares what these predict of another config with what is measured.
int bench_calibrate(const Arguments& arguments);

}  // namespace upcycle
