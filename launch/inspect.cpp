#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "core/config/describe.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

Json describe(const ModelConfig& model) {
  const ParameterCount count = count_parameters(model);
  Json tensors = Json::array();
  const ParamTable table = make_global_table(model);
  for (const ParamRow& row : table.rows)
    tensors.push_back({{"name", row.name}, {"shape", row.is_vector ? Json{row.columns} : Json{row.rows, row.columns}}});
  return {{"parameters", count.total},
          {"active_parameters", count.active},
          {"model", Json::parse(to_json(model))},
          {"tensors", tensors}};
}

void add_checkpoint(Json& j, const StepFolder& step) {
  const CheckpointInfo& info = step.manifest.info;
  j["directory"] = step.path;
  j["step"] = info.step;
  j["consumed_samples"] = info.consumed_samples;
  j["tokens"] = info.tokens;
  j["flops"] = info.flops;
  j["wall_seconds"] = info.wall_seconds;
  if (info.skipped_steps > 0) j["skipped_steps"] = info.skipped_steps;
  j["init"] = info.init;
  j["layout"] = {{"world", info.layout.world}, {"tp", info.layout.tp},   {"dp", info.layout.dp},
                 {"ep", info.layout.ep},       {"etp", info.layout.etp}, {"edp", info.layout.edp}};
  j["format_version"] = step.manifest.format_version;
  j["tokenizer"] = info.tokenizer;
  j["config"] = info.config.empty() ? Json() : Json::parse(info.config);
  bool optimizer = false;
  std::int64_t bytes = 0;
  j["files"] = Json::array();
  for (const Checkpoint::FileEntry& f : step.manifest.files) {
    j["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"hash", f.hash}});
    optimizer = optimizer || rank_of_optimizer_file(f.name) >= 0;
    bytes += f.bytes;
  }
  j["bytes"] = bytes;
  j["optimizer_state"] = optimizer;
  j["weights_alone"] = info.weights_alone ? Json(name_of(*info.weights_alone)) : Json();
  for (Json& tensor : j["tensors"])
    if (const auto steps = info.optimizer_steps.find(tensor["name"].get<std::string>());
        steps != info.optimizer_steps.end())
      tensor["optimizer_steps"] = steps->second;
}

void print(const Json& j) {
  fmt::print("{} parameters, {} active per token\n", j["parameters"].get<std::int64_t>(),
             j["active_parameters"].get<std::int64_t>());
  for (const auto& [key, value] : j.items()) {
    if (key == "tensors" || key == "files" || key == "parameters" || key == "active_parameters") continue;
    fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  if (j.contains("files"))
    for (const Json& f : j["files"])
      fmt::print("  {:<28} {:>14} bytes  {}\n", f["name"].get<std::string>(), f["bytes"].get<std::int64_t>(),
                 f["hash"].get<std::string>());
  for (const Json& t : j["tensors"])
    fmt::print(
        "  {:<60} {:<16} {}\n", t["name"].get<std::string>(), t["shape"].dump(),
        t.contains("optimizer_steps") ? fmt::format("{} updates", t["optimizer_steps"].get<std::int64_t>()) : "");
}

}  // namespace

int run_inspect(const Arguments& arguments) {
  std::string dir;
  bool json = false, verify = false;
  Options options(
      "inspect", "What a model is: sizes, tensors, and of a checkpoint its step, layout, config, files and checksums.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.flag("--verify", verify,
               "read all files of a checkpoint: their checksums, and that they hold each element once");
  options.flag("--json", json, "print one JSON object");
  options.example("upcycle inspect runs/moe --verify",
                  "what a checkpoint is, and whether all its bytes are as they were written");
  if (!options.parse(arguments)) return 0;
  Json j;
  if (is_checkpoint(dir)) {
    const StepFolder step = look_at_step(dir);
    if (verify) (void)open_checkpoint(step.path);
    j = describe(step.manifest.info.model);
    add_checkpoint(j, step);
    j["verified"] = verify;
  } else {
    j = describe(open_model(dir)->model());
    j["step"] = j["tokens"] = 0;
    j["flops"] = j["wall_seconds"] = 0.0;
  }
  if (json) {
    fmt::print("{}\n", j.dump());
  } else {
    print(j);
  }
  return 0;
}

}  // namespace upcycle
