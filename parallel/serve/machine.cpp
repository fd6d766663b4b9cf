#include "parallel/serve/machine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

struct Constant {
  const char* key;
  double Machine::*member;
  double least, most;  // what is possible on any machine
};
// A slow microcontroller to a rack that does not exist yet; times from none to a minute.
constexpr double kRate = 1e6, kMostRate = 1e18, kMinute = 60;
constexpr std::array<Constant, 14> kConstants = {{
    {"memory_bytes", &Machine::memory_bytes, 1e6, 1e15},
    {"memory_utilization", &Machine::memory_utilization, 0.01, 1},
    {"memory_rate", &Machine::memory_rate, kRate, kMostRate},
    {"product_rate_bf16", &Machine::product_rate_bf16, kRate, kMostRate},
    {"product_rate_fp32", &Machine::product_rate_fp32, kRate, kMostRate},
    {"expert_efficiency", &Machine::expert_efficiency, 0.001, 2},
    {"attention_efficiency", &Machine::attention_efficiency, 0.001, 2},
    {"link_rate", &Machine::link_rate, kRate, kMostRate},
    {"link_latency", &Machine::link_latency, 0, kMinute},
    {"layer_time", &Machine::layer_time, 0, kMinute},
    {"moe_layer_time", &Machine::moe_layer_time, 0, kMinute},
    {"moe_row_time", &Machine::moe_row_time, 0, kMinute},
    {"host_step_time", &Machine::host_step_time, 0, kMinute},
    {"host_token_time", &Machine::host_token_time, 0, kMinute},
}};

bool plain(const std::string& text) {
  return text.size() <= 60 &&
         std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; });
}
std::string shown_key(const std::string& key) { return plain(key) ? key : quote_text(key); }

std::string shown(const Json& value) {
  const std::string text = value.is_string() ? quote_text(value.get_ref<const std::string&>()) : value.dump();
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

double read_constant(const std::string& file, const Json& machine, const Constant& c) {
  const auto refuse = [&](const std::string& field, const std::string& found, const std::string& expected) {
    input_error("{}: {}: found {}, expected {}", file, field, found, expected);
  };
  const auto at = machine.find(c.key);
  if (at == machine.end()) refuse(c.key, "nothing", "{\"value\": a number, \"source\": where it comes from}");
  if (!at->is_object()) refuse(c.key, shown(*at), "{\"value\": a number, \"source\": where it comes from}");
  for (const auto& [key, value] : at->items())
    if (key != "value" && key != "source")
      refuse(fmt::format("{}.{}", c.key, shown_key(key)), shown(value), "value and source only");
  const Json value = at->value("value", Json{}), source = at->value("source", Json{});
  const std::string range = fmt::format("a number from {:g} to {:g}", c.least, c.most);
  const std::string field = fmt::format("{}.value", c.key);
  if (!value.is_number()) refuse(field, value.is_null() ? "nothing" : shown(value), range);
  const auto number = value.get<double>();
  if (!(number >= c.least && number <= c.most)) refuse(field, shown(value), range);
  if (!source.is_string() || source.get_ref<const std::string&>().empty())
    refuse(fmt::format("{}.source", c.key), source.is_null() ? "nothing" : shown(source),
           "text: where the value comes from");
  return number;
}

}  // namespace

Machine read_machine(const std::string& file) {
  if (!std::ifstream(file))
    input_error("{}: can not be read, expected a machine file such as launch/machines/h100.json", file);
  return parse_machine(read_config_file(file), file);
}

Machine parse_machine(const std::string& text, const std::string& file) {
  const Json machine = parse_strict_json(text, file);
  if (!machine.is_object()) input_error("{}: found {}, expected a JSON object", file, shown(machine));
  Machine m;
  const Json name = machine.value("name", Json{});
  if (!name.is_string())
    input_error("{}: name: found {}, expected text", file, name.is_null() ? "nothing" : shown(name));
  m.name = name.get<std::string>();
  if (!plain(m.name))
    input_error("{}: name: found {}, expected 60 printable characters at most", file, quote_text(m.name));
  std::vector<std::string> known = {"name"};
  for (const Constant& c : kConstants) {
    m.*c.member = read_constant(file, machine, c);
    known.emplace_back(c.key);
  }
  for (const auto& [key, value] : machine.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string near = nearest(key, known);
    input_error("{}: {}: no such constant{}", file, shown_key(key),
                near.empty() ? "" : ", did you mean " + quote_text(near) + "?");
  }
  return m;
}

bool possible(const Machine& machine) {
  return std::all_of(kConstants.begin(), kConstants.end(),
                     [&](const Constant& c) { return machine.*c.member >= c.least && machine.*c.member <= c.most; });
}

void write_machine(const std::string& file, const Machine& machine, const std::string& source) {
  nlohmann::ordered_json j{{"name", machine.name}};
  for (const Constant& c : kConstants) j[c.key] = {{"value", machine.*c.member}, {"source", source}};
  write_text_atomic(file, j.dump(2) + "\n");
}

}  // namespace upcycle
