#include "parallel/checkpoint/manifest.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hash.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t max_manifest_bytes = std::size_t{64} << 20;
constexpr const char* format_name = "upcycle checkpoint";
constexpr const char* hash_name = "XXH3-128";
constexpr const char* seal_key = "manifest_hash";
const std::string no_seal(32, '0');

// Where the digits of the text's own hash begin; npos: it has none. Inside a JSON string the quotes would be escaped.
std::size_t find_seal(const std::string& text) {
  const std::string before = fmt::format("\"{}\": \"", seal_key);
  const std::size_t at = text.rfind(before);
  if (at == text.npos || text.size() - at < before.size() + no_seal.size()) return text.npos;
  return at + before.size();
}

std::string hash_without_seal(std::string text, std::size_t seal) {
  text.replace(seal, no_seal.size(), no_seal);
  return hash_bytes(text.data(), text.size());
}

// "" where the text's own hash is right, or where it has none.
std::string broken_seal(const std::string& text, const std::string& path) {
  const std::size_t seal = find_seal(text);
  if (seal == text.npos) return "";
  const std::string found = hash_without_seal(text, seal), expected = text.substr(seal, no_seal.size());
  if (found == expected) return "";
  return fmt::format("{}: found hash {}, expected {}; the manifest is damaged: use another step's folder", path, found,
                     quote_text(expected));
}

struct NewerFormat : InputError {
  using InputError::InputError;
};

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

int rank_of(std::string_view name, std::string_view prefix) {
  constexpr std::string_view suffix = ".h5";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return -1;
  name.remove_prefix(prefix.size());
  if (name.size() < suffix.size() + 5) return -1;
  name.remove_suffix(suffix.size());
  int rank = -1;
  if (!all_digits(name) || std::from_chars(name.data(), name.data() + name.size(), rank).ec != std::errc{}) return -1;
  return rank;
}

std::string rank_name(const char* prefix, int rank) { return fmt::format("{}{:05d}.h5", prefix, rank); }

// Typed access that names the file, the key's whole path, what was found and what was expected.
class Section {
 public:
  Section(const Json& value, std::string path, std::string key)
      : value_(value), path_(std::move(path)), key_(std::move(key)) {
    if (!value_.is_object()) fail("", value_, "an object");
  }

  [[noreturn]] void fail(const std::string& key, const Json& found, const std::string& expected) const {
    const std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
    std::string name = key_ + key;
    if (key.empty() && !name.empty()) name.pop_back();  // the dot
    input_error("{}: {}: found {}, expected {}; the manifest is damaged, use another step's folder", path_,
                name.empty() ? "the whole" : name, text.size() > 60 ? text.substr(0, 60) + "..." : text, expected);
  }
  const Json& at(const char* key) const {
    const auto found = value_.find(key);
    if (found == value_.end())
      input_error(
          "{}: {}{}: found no such key, expected it in every manifest; the manifest is damaged, use another "
          "step's folder",
          path_, key_, key);
    return *found;
  }
  std::int64_t integer(const char* key, std::int64_t min,
                       std::int64_t max = std::numeric_limits<std::int64_t>::max()) const {
    const Json& v = at(key);
    const std::string expected = fmt::format("an integer of {} to {}", min, max);
    if (!v.is_number_integer() ||
        (v.is_number_unsigned() && v.get<std::uint64_t>() > static_cast<std::uint64_t>(max)) ||
        v.get<std::int64_t>() < min || v.get<std::int64_t>() > max)
      fail(key, v, expected);
    return v.get<std::int64_t>();
  }
  int small(const char* key) const { return static_cast<int>(integer(key, 1, std::numeric_limits<int>::max())); }
  double number(const char* key) const {
    const Json& v = at(key);
    if (!v.is_number() || !(v.get<double>() >= 0)) fail(key, v, "a number of at least 0");
    return v.get<double>();
  }
  std::vector<double> numbers(const char* key) const {
    const Json& v = at(key);
    if (!v.is_array() || !std::all_of(v.begin(), v.end(), [](const Json& x) { return x.is_number(); }))
      fail(key, v, "a list of numbers");
    return v.get<std::vector<double>>();
  }
  std::string text(const char* key) const {
    const Json& v = at(key);
    if (!v.is_string()) fail(key, v, "a text");
    return v.get<std::string>();
  }
  Section section(const char* key) const { return {at(key), path_, key_ + key + "."}; }
  std::vector<Section> list(const char* key) const {
    const Json& v = at(key);
    if (!v.is_array()) fail(key, v, "a list");
    std::vector<Section> items;
    for (std::size_t i = 0; i < v.size(); ++i) items.emplace_back(v[i], path_, fmt::format("{}{}[{}].", key_, key, i));
    return items;
  }
  const Json& json() const { return value_; }

 private:
  const Json& value_;
  std::string path_, key_;
};

void read_files(const Section& root, Manifest& m) {
  std::set<std::string> seen;
  bool any_model = false;
  for (const Section& s : root.list("files")) {
    Checkpoint::FileEntry file{s.text("name"), s.text("hash"), s.integer("bytes", 0)};
    if (!is_plain_file_name(file.name) || file.name == manifest_name)
      s.fail("name", s.at("name"), "the name of a file in the same folder");
    if (!seen.insert(file.name).second) s.fail("name", s.at("name"), "each file once");
    if (file.hash.size() != 32 || file.hash.find_first_not_of("0123456789abcdef") != file.hash.npos)
      s.fail("hash", s.at("hash"), "32 hexadecimal digits");
    any_model = any_model || rank_of_model_file(file.name) >= 0;
    m.files.push_back(std::move(file));
  }
  if (!any_model) root.fail("files", root.at("files"), "at least one model.rankNNNNN.h5");
  if (!m.info.tokenizer.empty() && seen.count(m.info.tokenizer) == 0)
    root.fail("tokenizer", root.at("tokenizer"), "\"\" or one of the files");
}

void read_tensors(const Section& root, const std::string& path, Manifest& m) {
  const std::vector<Section> list = root.list("tensors");
  const ModelConfig& c = m.info.model;
  // Before the table is built: a damaged size must not make it endless.
  double expected_about = static_cast<double>(c.num_hidden_layers);
  for (std::int64_t l = 0; l < c.num_hidden_layers; ++l)
    if (c.is_moe_layer(l)) expected_about += static_cast<double>(c.num_local_experts);
  if (expected_about > static_cast<double>(list.size()) + 2)
    input_error("{}: tensors: found {}, expected more for {} layers and {} experts; the manifest is damaged", path,
                list.size(), c.num_hidden_layers, c.num_local_experts);
  const ParamTable table = make_global_table(c);
  if (list.size() != table.rows.size())
    input_error("{}: tensors: found {}, expected the model's {}; the manifest is damaged", path, list.size(),
                table.rows.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Section& s = list[i];
    const ParamRow& row = table.rows[i];
    const Json shape = row.is_vector ? Json{row.columns} : Json{row.rows, row.columns};
    if (s.text("name") != row.name) s.fail("name", s.at("name"), row.name);
    if (s.at("shape") != shape) s.fail("shape", s.at("shape"), shape.dump() + " for " + row.name);
    m.tensors.push_back({row.name, row.rows, row.columns, row.is_vector});
    if (s.json().contains("optimizer_steps")) m.info.optimizer_steps[row.name] = s.integer("optimizer_steps", 0);
  }
}

}  // namespace

namespace {
constexpr const char *step_prefix = "step_", *model_prefix = "model_";

std::string numbered(const char* prefix, std::int64_t step) { return fmt::format("{}{:08d}", prefix, step); }

bool is_numbered(const std::string& name, std::string_view prefix) {
  return name.starts_with(prefix) && name.size() >= prefix.size() + 8 && name.size() <= prefix.size() + 19 &&
         all_digits(name.substr(prefix.size()));
}
}  // namespace

std::string step_folder_name(std::int64_t step) { return numbered(step_prefix, step); }
bool is_step_folder_name(const std::string& name) { return is_numbered(name, step_prefix); }
std::string model_folder_name(std::int64_t step) { return numbered(model_prefix, step); }
bool is_model_folder_name(const std::string& name) { return is_numbered(name, model_prefix); }

std::string model_file_name(int rank) { return rank_name("model.rank", rank); }
std::string optimizer_file_name(int rank) { return rank_name("optimizer.rank", rank); }
int rank_of_model_file(const std::string& name) { return rank_of(name, "model.rank"); }
int rank_of_optimizer_file(const std::string& name) { return rank_of(name, "optimizer.rank"); }

std::string manifest_text(const Manifest& m) {
  const CheckpointInfo& info = m.info;
  UPCYCLE_CHECK(std::isfinite(info.flops) && std::isfinite(info.wall_seconds), "flops {}, wall_seconds {}", info.flops,
                info.wall_seconds);
  Json j;
  j["format"] = format_name;
  j["format_version"] = checkpoint_format_version;
  j["step"] = info.step;
  j["consumed_samples"] = info.consumed_samples;
  j["tokens"] = info.tokens;
  j["flops"] = info.flops;
  j["wall_seconds"] = info.wall_seconds;
  if (info.skipped_steps > 0 || !info.losses.empty())
    j["skipped"] = {{"steps", info.skipped_steps}, {"in_a_row", info.skipped_in_a_row}, {"losses", info.losses}};
  j["init"] = info.init;
  j["tokenizer"] = info.tokenizer;
  if (info.weights_alone) j["weights_alone"] = name_of(*info.weights_alone);
  const Layout& l = info.layout;
  j["layout"] = {{"world", l.world}, {"tp", l.tp}, {"dp", l.dp}, {"ep", l.ep}, {"etp", l.etp}, {"edp", l.edp}};
  j["model"] = Json::parse(to_json(info.model));
  j["config"] = info.config.empty() ? Json() : Json::parse(info.config);
  j["hash"] = hash_name;
  j["files"] = Json::array();
  for (const Checkpoint::FileEntry& f : m.files)
    j["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"hash", f.hash}});
  j["tensors"] = Json::array();
  for (const Checkpoint::TensorShape& t : m.tensors) {
    Json entry = {{"name", t.name}, {"shape", t.is_vector ? Json{t.columns} : Json{t.rows, t.columns}}};
    const auto steps = info.optimizer_steps.find(t.name);
    if (steps != info.optimizer_steps.end()) entry["optimizer_steps"] = steps->second;
    j["tensors"].push_back(std::move(entry));
  }
  j[seal_key] = no_seal;
  std::string text = j.dump(1) + "\n";
  const std::size_t seal = find_seal(text);
  return text.replace(seal, no_seal.size(), hash_without_seal(text, seal));
}

std::string read_manifest_text(const std::string& step_folder) {
  return read_regular_text(step_folder + "/" + manifest_name, max_manifest_bytes);
}

Manifest read_manifest(const std::string& step_folder) {
  return parse_manifest(read_manifest_text(step_folder), step_folder + "/" + manifest_name);
}

std::string damage_of_manifest(const std::string& text, const std::string& path) {
  if (find_seal(text) != text.npos) return broken_seal(text, path);
  try {
    (void)parse_manifest(text, path);
    return "";
  } catch (const NewerFormat&) {
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  if (const std::string damage = broken_seal(text, path); !damage.empty()) throw InputError(damage);
  parse_strict_json(text, path);
  const Json json = Json::parse(text);  // again, to keep the order of the config's keys
  const Section root(json, path, "");
  if (root.text("format") != format_name) root.fail("format", root.at("format"), format_name);
  const std::int64_t version = root.integer("format_version", 1);
  if (version > checkpoint_format_version)
    throw NewerFormat(fmt::format(
        "{}: format_version: found {}, expected at most {}; it was written by a newer upcycle: update this one", path,
        version, checkpoint_format_version));
  if (version > 1) (void)root.text(seal_key);
  if (root.text("hash") != hash_name) root.fail("hash", root.at("hash"), hash_name);
  Manifest m;
  m.format_version = static_cast<int>(version);
  CheckpointInfo& info = m.info;
  info.step = root.integer("step", 0);
  info.consumed_samples = root.integer("consumed_samples", 0);
  info.tokens = root.integer("tokens", 0);
  info.flops = root.number("flops");
  info.wall_seconds = root.number("wall_seconds");
  if (json.contains("skipped")) {
    const Section skipped = root.section("skipped");
    info.skipped_steps = skipped.integer("steps", 0);
    info.skipped_in_a_row = skipped.integer("in_a_row", 0);
    info.losses = skipped.numbers("losses");
  }
  info.init = root.text("init");
  if (std::any_of(info.init.begin(), info.init.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }))
    root.fail("init", root.at("init"), "a text without control characters");  // it is printed
  info.tokenizer = root.text("tokenizer");
  if (json.contains("weights_alone")) {
    const std::string type = root.text("weights_alone");
    if (type != name_of(DType::F32) && type != name_of(DType::BF16))
      root.fail("weights_alone", root.at("weights_alone"), "fp32 or bf16");
    info.weights_alone = type == name_of(DType::F32) ? DType::F32 : DType::BF16;
  }
  const Section l = root.section("layout");
  info.layout = {l.small("world"), l.small("tp"), l.small("dp"), l.small("ep"), l.small("etp"), l.small("edp")};
  const Layout& of = info.layout;
  if (std::int64_t{of.tp} * of.dp != of.world || std::int64_t{of.etp} * of.ep * of.edp != of.world)
    root.fail("layout", root.at("layout"), "world = tp * dp = etp * ep * edp");
  info.model = model_from_json(root.section("model").json().dump(), path);
  check_model(info.model, path);
  const Json& config = root.at("config");
  if (!config.is_null()) {
    if (!config.is_object()) root.fail("config", config, "an object or null");
    info.config = config.dump(2);
  }
  read_files(root, m);
  read_tensors(root, path, m);
  return m;
}

}  // namespace upcycle
