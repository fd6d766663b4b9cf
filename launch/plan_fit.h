#pragma once
#include "parallel/plan/fit.h"

// `upcycle plan --fit`: what it prints.
namespace upcycle {

// Of a rank's part of its host: eight ranks on a server of two sockets with eight channels of DDR5-4800 each, two
// thirds of whose 614 GB/s can be reached.
constexpr double kHostRate = 50e9;
// Between machines, of a rank: 400 Gbit/s InfiniBand for each GPU.
constexpr double kNetworkRate = 50e9;

struct NamedRates {
  StepRates rates;   // with the two above, and one machine
  std::string from;  // for the reader
  bool of_h100 = false;
};
// An H100 SXM's (machines/h100.json), but for the products'; a machine file's.
NamedRates rates_of_h100(double products);
NamedRates rates_of(const std::string& machine_file, DType dtype);

void print_fit(const PlannedRun& run, const FitLimits& limits, const NamedRates& rates, bool json);

}  // namespace upcycle
