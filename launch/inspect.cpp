#include <nlohmann/json.hpp>

#include "launch/commands.h"
#include "launch/common.h"
#include "launch/options.h"
#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

Json describe(const TensorSource& source) {
  const ParameterCount count = count_parameters(source.model());
  Json tensors = Json::array();
  const ParamTable table = make_global_table(source.model());
  for (const ParamRow& row : table.rows)
    tensors.push_back({{"name", row.name}, {"shape", row.is_vector ? Json{row.columns} : Json{row.rows, row.columns}}});
  return {{"parameters", count.total},
          {"active_parameters", count.active},
          {"model", Json::parse(to_json(source.model()))},
          {"tensors", tensors}};
}

void add_checkpoint(Json& j, const Checkpoint& c) {
  const CheckpointInfo& info = c.info();
  j["directory"] = c.directory();
  j["step"] = info.step;
  j["consumed_samples"] = info.consumed_samples;
  j["tokens"] = info.tokens;
  j["flops"] = info.flops;
  j["wall_seconds"] = info.wall_seconds;
  j["init"] = info.init;
  j["layout"] = {{"world", info.layout.world}, {"tp", info.layout.tp},   {"dp", info.layout.dp},
                 {"ep", info.layout.ep},       {"etp", info.layout.etp}, {"edp", info.layout.edp}};
  j["optimizer_state"] = c.has_optimizer();
  j["files"] = Json::array();
  for (const Checkpoint::FileEntry& f : c.files())
    j["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"hash", f.hash}});
}

void print(const Json& j) {
  fmt::print("{} parameters, {} active a token\n", j["parameters"].get<std::int64_t>(),
             j["active_parameters"].get<std::int64_t>());
  for (const auto& [key, value] : j.items()) {
    if (key == "tensors" || key == "files" || key == "parameters" || key == "active_parameters") continue;
    fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  if (j.contains("files"))
    for (const Json& f : j["files"])
      fmt::print("  {:<28} {:>14} bytes  {}\n", f["name"].get<std::string>(), f["bytes"].get<std::int64_t>(),
                 f["hash"].get<std::string>());
  for (const Json& t : j["tensors"]) fmt::print("  {:<60} {}\n", t["name"].get<std::string>(), t["shape"].dump());
}

}  // namespace

int run_inspect(const Arguments& arguments) {
  std::string dir;
  bool json = false;
  Options options(
      "inspect",
      "What a model is: sizes, tensors, and of a checkpoint its step, layout, files and checksums (verified).");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.flag("--json", json, "print one JSON object");
  if (!options.parse(arguments)) return 0;
  Json j;
  if (is_checkpoint(dir)) {
    const auto checkpoint = open_checkpoint(dir);
    j = describe(*checkpoint);
    add_checkpoint(j, *checkpoint);
  } else {
    j = describe(*open_model(dir));
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
