#pragma once
#include <set>
#include <string>
#include <vector>

#include "tests/cli/run_program.h"

namespace upcycle {

using Words = std::vector<std::string>;

std::set<std::string> files_below(const std::string& folder);
std::string text_of(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);

// mpirun of these command lines, each on `ranks` ranks, killed after a minute.
struct Part {
  int ranks;
  Words words;  // the program first
};
Outcome run_parts(const std::vector<Part>& parts);

// Expects exit code 2 and, besides what mpirun prints, one line of ours that has all the words of `named`.
void expect_one_line(const Outcome& outcome, const Words& named);

}  // namespace upcycle
