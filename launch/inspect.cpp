#include <fmt/core.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/config/describe.h"
#include "core/error.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/read_lock.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/checkpoint/verify.h"
#include "parallel/comm/mesh.h"

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
    if (key == "tensors" || key == "files" || key == "steps" || key == "parameters" || key == "active_parameters")
      continue;
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

// "": all bytes of a step's folder are those that were written, and hold each element once.
std::string damage_of(const std::string& folder, Communicator& alone) {
  try {
    std::optional<ReadLock> lock;
    if (std::filesystem::exists(folder + "/" + manifest_name)) lock.emplace(folder);
    const Verdict v = verify_step(folder, alone);
    if (!v.intact()) return v.reason;
    (void)open_checkpoint(folder, false);
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

// Of a run folder: every step and all weights alone.
struct RunVerdict {
  Json steps = Json::array();
  std::string newest_intact;  // "": none
  std::string described;      // the step that `latest` names, where it is intact, or the newest intact one
  bool whole = true;
};

RunVerdict verify_run(const std::string& dir) {
  const Mesh mesh = make_single_mesh();
  RunVerdict run;
  const auto add = [&](const std::string& name, const std::string& damage) {
    run.steps.push_back({{"name", name}, {"intact", damage.empty()}, {"reason", damage}});
    run.whole = run.whole && damage.empty();
  };
  const Latest latest = look_at_latest(dir);
  for (const std::string& step : published_steps(dir)) {
    const std::string damage = damage_of(dir + "/" + step, *mesh.world);
    add(step, damage);
    if (!damage.empty()) continue;
    run.newest_intact = step;
    if (run.described != latest.step || latest.step.empty()) run.described = step;
  }
  for (const std::string& model : published_models(dir)) add(model, damage_of(dir + "/" + model, *mesh.world));
  if (!latest.damage.empty()) add(latest_name, latest.damage);
  if (!latest.step.empty() && !std::filesystem::exists(dir + "/" + latest.step))
    add(latest_name, fmt::format("{}/{}: found {}, expected a step that is there", dir, latest_name, latest.step));
  return run;
}

void print(const RunVerdict& run) {
  for (const Json& s : run.steps)
    fmt::print("{}: {}\n", s["name"].get<std::string>(),
               s["intact"].get<bool>() ? "intact" : "damaged: " + s["reason"].get<std::string>());
  fmt::print("newest intact step: {}\n", run.newest_intact.empty() ? "none" : run.newest_intact);
}

// Some file is not as it was written.
constexpr int kDamaged = 1;

}  // namespace

int run_inspect(const Arguments& arguments) {
  std::string dir;
  bool json = false, verify = false;
  Options options(
      "inspect", "What a model is: sizes, tensors, and of a checkpoint its step, layout, config, files and checksums.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.flag("--verify", verify,
               "read all files of a checkpoint, or of every step of a run folder: their checksums, and that they hold "
               "each element once; exit code 1 where one of a run folder's is damaged");
  options.flag("--json", json, "print one JSON object");
  options.example("upcycle inspect runs/moe --verify",
                  "whether all bytes of each checkpoint are as they were written, and which is the newest that is");
  if (!options.parse(arguments)) return 0;
  Json j;
  std::optional<RunVerdict> run;
  if (verify && holds_run(dir) && !std::filesystem::exists(dir + "/" + manifest_name)) run = verify_run(dir);
  if (run) {
    if (!run->described.empty()) {
      const StepFolder step = look_at_step(dir + "/" + run->described);
      j = describe(step.manifest.info.model);
      add_checkpoint(j, step);
    }
    j["verified"] = run->whole;
    j["steps"] = run->steps;
    j["newest_intact"] = run->newest_intact;
  } else if (is_checkpoint(dir)) {
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
    if (run) print(*run);
    if (j.contains("model")) print(j);
  }
  return run && !run->whole ? kDamaged : 0;
}

}  // namespace upcycle
