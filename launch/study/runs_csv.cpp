#include "launch/study/report.h"

#include <algorithm>

namespace upcycle {
namespace {

// As RFC 4180 asks: what holds a comma, a quote or an end of line is quoted, quotes in it are doubled.
std::string field(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  const std::string text = value.get<std::string>();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string line(const std::vector<std::string>& fields) {
  std::string text;
  for (std::size_t i = 0; i < fields.size(); ++i) text += (i == 0 ? "" : ",") + fields[i];
  return text + "\r\n";
}

const std::vector<std::string> kColumns = {"name",
                                           "kind",
                                           "arm",
                                           "size",
                                           "duration",
                                           "budget",
                                           "seed",
                                           "sweep",
                                           "result",
                                           "status",
                                           "error",
                                           "learning_rate",
                                           "parameters",
                                           "active_parameters",
                                           "tokens",
                                           "flops",
                                           "wall_seconds",
                                           "device_seconds",
                                           "own_flops",
                                           "own_device_seconds",
                                           "tokens_per_second",
                                           "epochs",
                                           "last_50_loss",
                                           "folder",
                                           "command"};

}  // namespace

std::string runs_csv(const Json& report) {
  std::vector<std::string> sets;
  for (const Json& run : report["runs"])
    for (const auto& [set, loss] : run["loss"].items())
      if (std::find(sets.begin(), sets.end(), set) == sets.end()) sets.push_back(set);
  std::vector<std::string> head;
  for (const std::string& column : kColumns) head.push_back(column);
  for (const std::string& set : sets) head.push_back(field("loss:" + set));
  std::string text = line(head);
  for (const Json& run : report["runs"]) {
    std::vector<std::string> fields;
    for (const std::string& column : kColumns) fields.push_back(field(run.value(column, Json())));
    for (const std::string& set : sets) fields.push_back(field(run["loss"].value(set, Json())));
    text += line(fields);
  }
  return text;
}

}  // namespace upcycle
