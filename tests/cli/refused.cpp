#include "tests/cli/refused.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace upcycle {

std::set<std::string> files_below(const std::string& folder) {
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) found.insert(entry.path().string());
  return found;
}

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

Outcome run_parts(const std::vector<Part>& parts) {
  Words words{"/usr/bin/env", "timeout", "60", "mpirun", "--quiet", "--oversubscribe", "--bind-to", "none"};
  for (const char* w : {"--mca", "btl", "self,vader", "--mca", "oob_tcp_if_include", "lo"}) words.push_back(w);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) words.push_back(":");
    words.push_back("-n");
    words.push_back(std::to_string(parts[i].ranks));
    words.insert(words.end(), parts[i].words.begin(), parts[i].words.end());
  }
  return run_program(words, {{"OMP_NUM_THREADS", "1"},
                             {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                             {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                             {"OMPI_MCA_mpi_yield_when_idle", "1"}});
}

void expect_one_line(const Outcome& o, const Words& named) {
  EXPECT_EQ(o.exit_code, 2) << o.err;  // 124: it hung
  EXPECT_EQ(o.out, "");
  Words ours;
  std::istringstream in(o.err);
  for (std::string line; std::getline(in, line);)
    if (line.find("upcycle: ") != line.npos) ours.push_back(line);
  ASSERT_EQ(ours.size(), 1u) << o.err;
  EXPECT_EQ(ours[0].find("failed at"), std::string::npos) << ours[0];
  for (const std::string& part : named) EXPECT_NE(ours[0].find(part), std::string::npos) << part << " in: " << ours[0];
}

}  // namespace upcycle
