#include "parallel/models/export.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "core/error.h"
#include "core/half.h"
#include "core/log.h"
#include "data/files.h"
#include "data/safetensors_writer.h"
#include "parallel/models/family.h"
#include "parallel/models/stored_place.h"
#include "parallel/models/weight_type.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::int64_t buffer_elements = std::int64_t{1} << 20;

std::string generation_config(const std::string& config) {
  const auto file = nlohmann::ordered_json::parse(config);
  nlohmann::ordered_json j;
  j["_from_model_config"] = true;
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (const auto found = file.find(key); found != file.end() && !found->is_null()) j[key] = *found;
  return j.dump(2) + "\n";
}

float stored_as(StoredType type, float x) {
  if (type == StoredType::BF16) return to_float(to_bf16(x));
  return type == StoredType::F16 ? half_to_float(float_to_half(x)) : x;
}

void refuse_rounding(const std::string& where, const std::string& tensor, StoredType type,
                     std::span<const float> values) {
  for (const float x : values)
    if (stored_as(type, x) != x)
      input_error(
          "{}: tensor {}: found {}, expected only numbers that {} holds, as config.json says of them; choose --dtype",
          where, tensor, x, weight_type(type).name);
}

void refuse_large(const std::string& where, const std::string& tensor, std::span<const float> values) {
  for (const float x : values)
    if (std::isinf(half_to_float(float_to_half(x))))
      input_error(
          "{}: tensor {}: found {}, expected numbers of at most {}, the largest of fp16; choose --dtype=bf16 or fp32",
          where, tensor, x, largest_half);
}

// Zero in the place of a small number would be another model to some readers (families/qwen2_moe.cpp).
void refuse_lost(const std::string& where, const std::vector<ConstantTensor>& constants, StoredType type) {
  for (const ConstantTensor& c : constants)
    if (c.value != 0 && stored_as(type, c.value) == 0)
      input_error("{}: tensor {}: found {}, which is 0 in {}; choose --dtype=bf16 or fp32", where, c.name, c.value,
                  weight_type(type).name);
}

void write_weights(TensorSource& source, const Family& family, const std::string& folder,
                   const ExportOptions& options) {
  SafetensorsWriter writer(folder, static_cast<std::uint64_t>(options.max_shard_bytes));
  const ParamTable table = make_global_table(source.model());
  const auto places = stored_places(family, source.model());
  const StoredType type = options.type;
  std::vector<const ParamRow*> rows;
  for (const ParamRow& row : table.rows) {
    const StoredPlace& place = places.at(row.name);
    if (place.row == 0 && place.column == 0) writer.declare(place.tensor, type, place.shape);
    rows.push_back(&row);
  }
  const std::vector<ConstantTensor> constants = family.constants(source.model());
  refuse_lost(source.name(), constants, type);
  for (const ConstantTensor& c : constants) writer.declare(c.name, type, c.shape);
  // A tensor's elements are written in order; those of other tensors may come between them.
  std::stable_sort(rows.begin(), rows.end(), [&](const ParamRow* a, const ParamRow* b) {
    const StoredPlace &x = places.at(a->name), &y = places.at(b->name);
    return std::pair(x.row, x.column) < std::pair(y.row, y.column);
  });
  std::vector<float> values;
  for (const ParamRow* at : rows) {
    const ParamRow& row = *at;
    const float factor = family.factor(source.model(), row.role);
    const std::int64_t block = std::clamp<std::int64_t>(buffer_elements / row.columns, 1, row.rows);
    values.resize(std::max(values.size(), static_cast<std::size_t>(block * row.columns)));
    for (std::int64_t r = 0; r < row.rows; r += block) {
      const Rectangle part{r, 0, std::min(block, row.rows - r), row.columns};
      source.read(row.name, part, values.data());
      if (factor != 1)
        for (std::int64_t i = 0; i < part.size(); ++i) values[static_cast<std::size_t>(i)] *= factor;
      const std::span<const float> read = std::span(values).first(static_cast<std::size_t>(part.size()));
      if (type == StoredType::F16) refuse_large(source.name(), row.name, read);
      if (options.exact) refuse_rounding(source.name(), row.name, type, read);
      writer.write(places.at(row.name).tensor, read.data(), read.size());
    }
  }
  for (const ConstantTensor& c : constants) {
    std::int64_t size = 1;
    for (const std::int64_t n : c.shape) size *= n;
    values.assign(static_cast<std::size_t>(size), c.value);
    writer.write(c.name, values.data(), values.size());
  }
  writer.finish();
}

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

void export_huggingface(TensorSource& source, const Origin& origin, const std::string& out,
                        const ExportOptions& options) {
  if (options.max_shard_bytes < 1)
    input_error("export: max_shard_bytes: found {}, expected at least 1", options.max_shard_bytes);
  const Family& family = exported_family(source.model(), options.model_type, origin.original());
  const std::string config =
      write_hf_config(source.model(), options.type, source.name(), family.model_type, origin.original());
  const std::string folder = without_trailing_slash(out), aside = folder + ".tmp";
  if (fs::exists(folder) && !fs::is_directory(folder))
    input_error("{}: found a file, expected a folder to be made; choose another name", folder);
  if (fs::exists(folder) && !fs::is_empty(folder))
    input_error("{}: found a folder that is not empty, expected none; choose another name or remove it", folder);
  if (fs::exists(aside))
    input_error("{}: found it, left by an export that did not end, expected none; remove it", aside);
  try {
    make_folder(aside);
    write_weights(source, family, aside, options);
    write_text_atomic(aside + "/config.json", config);
    if (!options.card.empty()) write_text_atomic(aside + "/README.md", options.card);
    for (const std::string& path : origin.files) copy_file(path, aside);
    if (!fs::exists(aside + "/generation_config.json"))
      write_text_atomic(aside + "/generation_config.json", generation_config(config));
    fsync_directory(aside);
    rename_durable(aside, folder);
  } catch (...) {
    try {
      remove_tree(aside);
    } catch (const std::exception& e) {
      log_warn("{}", e.what());
    }
    throw;
  }
}

}  // namespace upcycle
