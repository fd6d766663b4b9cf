#pragma once
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace upcycle {

// What one rank says of itself when a wait has lasted too long.
struct StallReport {
  int rank = 0;                  // in the world, as all ranks here
  double seconds = 0;            // that it has waited
  std::string group, op;         // "dp", "reduce_scatter"
  std::uint64_t sequence = 0;    // of the group's collectives
  std::uint64_t bytes = 0;       // that it gave
  std::vector<int> group_ranks;  // whom it waits with
  double quiet = 0;              // seconds of its wait without a sign of those that it waits for
};

std::vector<std::byte> to_bytes(const StallReport& report);
StallReport report_from_bytes(std::span<const std::byte> bytes);

// One line: who waits longest and where, and which of the ranks it waits for did not report; if all did, that their
// calls differ, or that the network does not move them; and where the others wait. `hosts`: one name per rank. Ranks
// that are `working` (reading, hashing, deleting) are not blamed.
std::string stall_summary(std::span<const StallReport> reports, std::span<const std::string> hosts,
                          const std::set<int>& working = {});

// Ranks that are waited for and reported no wait of their own.
std::set<int> missing_ranks(std::span<const StallReport> reports);

// Words for lines about ranks: "4 MiB"; "ranks 0-2, 5"; "a, b", or how many hosts where they are many.
std::string bytes_text(std::uint64_t bytes);
std::string ranks_text(const std::set<int>& ranks);
std::string hosts_text(const std::set<int>& ranks, std::span<const std::string> hosts);

}  // namespace upcycle
