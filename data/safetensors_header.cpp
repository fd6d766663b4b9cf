#include "data/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

struct TypeRow {
  StoredType type;
  const char* name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, 15> types{{{StoredType::F64, "F64", 8},
                                         {StoredType::F32, "F32", 4},
                                         {StoredType::F16, "F16", 2},
                                         {StoredType::BF16, "BF16", 2},
                                         {StoredType::I64, "I64", 8},
                                         {StoredType::I32, "I32", 4},
                                         {StoredType::I16, "I16", 2},
                                         {StoredType::I8, "I8", 1},
                                         {StoredType::U64, "U64", 8},
                                         {StoredType::U32, "U32", 4},
                                         {StoredType::U16, "U16", 2},
                                         {StoredType::U8, "U8", 1},
                                         {StoredType::Bool, "BOOL", 1},
                                         {StoredType::F8E5M2, "F8_E5M2", 1},
                                         {StoredType::F8E4M3, "F8_E4M3", 1}}};

constexpr std::uint64_t max_dimension = std::numeric_limits<std::int64_t>::max();

// Parses the header without building a JSON tree, which for an allowed 100 MB header would take gigabytes.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& path) : header_(header), path_(path) {}

  bool start_object(std::size_t) override {
    if (depth_ == 2 || in_list_) wrong("an object");
    ++depth_;
    fields_.clear();
    if (depth_ == 2) tensor_ = {}, offsets_.clear();
    return true;
  }

  bool key(std::string& key) override {
    if (depth_ == 1) {
      name_ = key;
      if (!names_.insert(key).second)
        input_error("{}: header: tensor {} is there twice, expected once; write the file again", path_,
                    quote_text(key));
    } else {
      field_ = key;
      if (!fields_.insert(key).second)
        input_error("{}: header: {}: key {} is there twice, expected once; write the file again", path_,
                    quote_text(name_), quote_text(key));
    }
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && name_ != "__metadata__") finish_tensor();
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_list_ || name_ == "__metadata__" || (field_ != "shape" && field_ != "data_offsets"))
      wrong("a list");
    in_list_ = true;
    return true;
  }
  bool end_array() override {
    in_list_ = false;
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    if (!in_list_) wrong(fmt::format("{}", value));
    if (field_ == "data_offsets") {
      if (offsets_.size() == 2) wrong("more than two offsets");
      offsets_.push_back(value);
    } else {
      if (value > max_dimension) wrong(fmt::format("{}", value));
      tensor_.shape.push_back(static_cast<std::int64_t>(value));
    }
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ != 2 || in_list_) wrong(quote_text(value));
    if (name_ == "__metadata__") return true;  // not used here
    if (field_ != "dtype") wrong(quote_text(value));
    for (const TypeRow& row : types)
      if (value == row.name) {
        tensor_.type = row.type;
        return true;
      }
    input_error(
        "{}: header: {}: dtype: found {}, expected one of F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL "
        "F8_E5M2 F8_E4M3; convert the file",
        path_, quote_text(name_), quote_text(value));
  }

  bool null() override { wrong("null"); }
  bool boolean(bool value) override { wrong(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) override { wrong(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) override { wrong(quote_text(text)); }
  bool binary(nlohmann::json::binary_t&) override { wrong("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    input_error("{}: header: not valid JSON: {}", path_, json_error_reason(error.what()));
  }

 private:
  [[noreturn]] void wrong(const std::string& found) const {
    if (depth_ == 0) input_error("{}: header: found {}, expected an object", path_, found);
    if (depth_ == 1) input_error("{}: header: {}: found {}, expected an object", path_, quote_text(name_), found);
    const char* expected = "only dtype, shape and data_offsets";
    if (name_ == "__metadata__")
      expected = "text";
    else if (field_ == "dtype")
      expected = "text";
    else if (field_ == "shape")
      expected = "a list of sizes, each from 0 to 2^63 - 1";
    else if (field_ == "data_offsets")
      expected = "a list of two byte positions";
    input_error("{}: header: {}: {}: found {}, expected {}", path_, quote_text(name_), quote_text(field_), found,
                expected);
  }

  void finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"})
      if (fields_.count(field) == 0)
        input_error("{}: header: {}: {} is missing; write the file again", path_, quote_text(name_), field);
    if (offsets_.size() != 2)
      input_error("{}: header: {}: data_offsets: found {} numbers, expected two byte positions", path_,
                  quote_text(name_), offsets_.size());
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    header_.tensors.emplace(name_, std::move(tensor_));
  }

  SafetensorsHeader& header_;
  const std::string& path_;
  int depth_ = 0;
  bool in_list_ = false;
  std::string name_, field_;
  std::set<std::string> names_, fields_;
  StoredTensor tensor_;
  std::vector<std::uint64_t> offsets_;
};

// The bytes that shape and type need; sets the two-dimensional view.
std::uint64_t bytes_of(StoredTensor& tensor, const std::string& name, const std::string& path) {
  std::uint64_t elements = 1, rows = 1, bytes = 0;
  bool overflow = false;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    const auto size = static_cast<std::uint64_t>(tensor.shape[i]);
    overflow = overflow || __builtin_mul_overflow(elements, size, &elements);
    if (i + 1 < tensor.shape.size())
      overflow = overflow || __builtin_mul_overflow(rows, size, &rows) || rows > max_dimension;
    else
      tensor.columns = tensor.shape[i];
  }
  if (overflow || __builtin_mul_overflow(elements, size_of(tensor.type), &bytes))
    input_error("{}: header: {}: shape: found a product past 2^63; write the file again", path, quote_text(name));
  tensor.rows = static_cast<std::int64_t>(rows);
  return bytes;
}

void check_ranges(SafetensorsHeader& header, std::uint64_t data_bytes, const std::string& path) {
  std::vector<std::pair<const std::string*, const StoredTensor*>> order;
  for (auto& [name, tensor] : header.tensors) {
    if (tensor.begin > tensor.end || tensor.end > data_bytes)
      input_error(
          "{}: header: {}: data_offsets: found [{}, {}], expected them to rise and to end within {} data bytes; "
          "the file is truncated or damaged",
          path, quote_text(name), tensor.begin, tensor.end, data_bytes);
    const std::uint64_t bytes = bytes_of(tensor, name, path);
    if (bytes != tensor.bytes())
      input_error("{}: header: {}: found {} bytes in data_offsets, expected {} for its shape and dtype {}", path,
                  quote_text(name), tensor.bytes(), bytes, name_of(tensor.type));
    order.emplace_back(&name, &tensor);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::uint64_t expected = 0;
  for (const auto& [name, tensor] : order) {
    if (tensor->begin != expected)
      input_error("{}: header: {}: data_offsets: found begin {}, expected {}: {}; write the file again", path,
                  quote_text(*name), tensor->begin, expected,
                  tensor->begin < expected ? "it overlaps another tensor" : "there is a hole before it");
    expected = tensor->end;
  }
  if (expected != data_bytes)
    input_error("{}: found {} bytes of data, expected the {} that its tensors cover; the file has a damaged end", path,
                data_bytes, expected);
}

}  // namespace

std::size_t size_of(StoredType type) { return types[static_cast<std::size_t>(type)].bytes; }
const char* name_of(StoredType type) { return types[static_cast<std::size_t>(type)].name; }

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& path) {
  if (text.empty() || text.front() != '{')
    input_error("{}: header: expected it to begin with '{{'; is it a safetensors file?", path);
  // The JSON library would take a zero byte for the end of the text.
  if (text.find('\0') != text.npos) input_error("{}: header: not valid JSON: it holds a zero byte", path);
  SafetensorsHeader header;
  HeaderReader reader(header, path);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  check_ranges(header, data_bytes, path);
  return header;
}

}  // namespace upcycle
