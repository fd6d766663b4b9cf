#pragma once
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace upcycle {

// What `upcycle doctor` found on one rank, and what it says of it.
struct RankHealth {
  int rank = 0;
  std::string host;
  bool gpu = false;
  int threads = 1, cores = 1;  // cores: that this rank may use
  int ranks_on_host = 1, host_cores = 1;
  double memory = 0;                        // bytes free on its device
  double product_flops = 0, sustained = 1;  // per second; ProductCheck
  double link = 0, all_to_all = 0;          // bytes per second; ExchangeCheck
  double write = 0, folder_free = 0;        // bytes per second, bytes
  double clock_offset = 0;                  // seconds
  bool products_right = true, exchange_right = true;
  std::string folder_failure;
  std::string verdict;  // "well", or "fails: ..." or "crawls: ..."
};

RankHealth health_of(const nlohmann::ordered_json& rank);

// Sets the verdicts; the number of ranks that are not well. `least_share` of the median speed of all ranks: slower ones
// are found.
std::size_t judge(std::vector<RankHealth>& ranks, double least_share);

// In what ranks differ that should be alike: libraries, processors, clocks. Training works, but not to the same bits.
std::vector<std::string> differences(const std::vector<nlohmann::ordered_json>& ranks);

}  // namespace upcycle
