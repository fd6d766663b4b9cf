#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cli/run_program.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {

// A folder with a text, its token sets `train` and `valid` (the "bytes" tokenizer) and the config of a tiny model that
// learns it in a second, fp32.
struct SmallRun {
  TemporaryFolder folder;
  nlohmann::json config;

  SmallRun();
  std::string file(const std::string& name) const { return folder.file(name); }
  // Writes NAME.json: `config` with `changes` (RFC 7396) and checkpoint.dir = NAME.
  std::string write_config(const std::string& name, const nlohmann::json& changes = {}) const;
  // Runs `train` with that config, which must succeed; returns the run folder.
  std::string train(const std::string& name, const nlohmann::json& changes = {}, int ranks = 1) const;
  std::string write_ids(const std::string& name, const std::vector<std::int32_t>& ids) const;
};

// A command's --json object; its exit code must be 0 and the object all that it prints.
nlohmann::json json_of(const std::vector<std::string>& arguments);
// The lines of RUN/metrics.jsonl that are of steps.
std::vector<nlohmann::json> step_lines(const std::string& run);
// The binary on several ranks of this machine.
Outcome run_ranks(int ranks, const std::vector<std::string>& arguments);
// Name and checksum of each file of RUN's newest checkpoint, from its manifest.
std::map<std::string, std::string> checkpoint_hashes(const std::string& run);

}  // namespace upcycle
