#pragma once
#include <cstddef>
#include <ctime>
#include <span>
#include <string>
#include <vector>

namespace upcycle {

// What a report of a wait that lasted too long says of one rank.
struct RankSection {
  int rank = 0;
  std::string line;  // where it stands, in one line
  std::string text;  // its last calls and its stack, lines that end in '\n'
  // Of a process that does not answer, why: "stopped (state T ...)". Does not travel.
  std::string silent = {};
};

std::vector<std::byte> to_bytes(std::span<const RankSection> sections);
std::vector<RankSection> sections_from_bytes(std::span<const std::byte> bytes);

// The whole report: `line`, which the run ends with, a line for each rank, then each rank's section. `hosts`: one name
// per rank. Ranks without a section are named with their hosts: nobody there answers.
std::string timeout_report(const std::string& line, std::vector<RankSection> sections,
                           std::span<const std::string> hosts);

// Writes a report to FOLDER/timeout_report.txt in place of one from before `since`, and says where; "" where it can
// not. Another rank's of the same time stays, as when a link is cut and both sides report: then the name has the rank
// too.
std::string write_report(const std::string& folder, int rank, std::time_t since, const std::string& text);

}  // namespace upcycle
