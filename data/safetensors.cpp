#include "data/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/check.h"
#include "core/error.h"
#include "core/half.h"
#include "core/suggest.h"
#include "data/safetensors_header.h"
#include "data/weight_map.h"

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian and read as they are");

namespace upcycle {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 20;
constexpr std::size_t max_index_bytes = std::size_t{64} << 20;

template <class Stored, class Convert>
void convert_run(const char* from, std::size_t n, float* to, Convert convert) {
  for (std::size_t i = 0; i < n; ++i) {
    Stored x;  // data need not be aligned in the file
    std::memcpy(&x, from + i * sizeof x, sizeof x);
    to[i] = convert(x);
  }
}

void to_floats(StoredType type, const char* from, std::size_t n, float* to) {
  switch (type) {
    case StoredType::F32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case StoredType::F64:
      return convert_run<double>(from, n, to, [](double x) { return static_cast<float>(x); });
    case StoredType::F16:
      return convert_run<std::uint16_t>(from, n, to, half_to_float);
    case StoredType::BF16:
      return convert_run<std::uint16_t>(from, n, to, [](std::uint16_t x) { return to_float(bf16{x}); });
    default:
      UPCYCLE_CHECK(false, "no conversion of {} to fp32", name_of(type));
  }
}

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

}  // namespace

bool is_float(StoredType type) {
  return type == StoredType::F64 || type == StoredType::F32 || type == StoredType::F16 || type == StoredType::BF16;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile result;
  result.file_ = open_regular_file(path);
  const std::uint64_t file_bytes = result.file_.size();
  if (file_bytes < 8)
    input_error("{}: found {} bytes, expected at least the 8 of a safetensors header size", path, file_bytes);
  std::uint64_t header_bytes = 0;
  result.file_.read_at(0, &header_bytes, sizeof header_bytes);
  if (header_bytes > max_safetensors_header)
    input_error("{}: header size: found {} bytes, expected at most {}; is it a safetensors file?", path, header_bytes,
                max_safetensors_header);
  if (header_bytes > file_bytes - 8)
    input_error("{}: header size: found {} bytes, expected at most the {} that follow; the file is truncated", path,
                header_bytes, file_bytes - 8);
  std::string text(header_bytes, '\0');
  result.file_.read_at(8, text.data(), text.size());
  const std::uint64_t data_begin = 8 + header_bytes;
  SafetensorsHeader header = parse_safetensors_header(text, file_bytes - data_begin, path);
  for (auto& [name, tensor] : header.tensors) {
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  result.tensors_ = std::move(header.tensors);
  return result;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

const StoredTensor& SafetensorsFile::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) input_error("{}: tensor {} is missing", path(), quote_text(name));
  return found->second;
}

void SafetensorsFile::read_rectangle(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                                     std::int64_t columns, float* out) const {
  const StoredTensor& t = info(name);
  if (!is_float(t.type))
    input_error("{}: {}: dtype: found {}, expected one of F64 F32 F16 BF16", path(), quote_text(name), name_of(t.type));
  UPCYCLE_CHECK(row >= 0 && rows >= 0 && rows <= t.rows && row <= t.rows - rows && column >= 0 && columns >= 0 &&
                    columns <= t.columns && column <= t.columns - columns,
                "{}: {}: rectangle ({} + {}, {} + {}) of ({}, {})", path(), name, row, rows, column, columns, t.rows,
                t.columns);
  if (rows == 0 || columns == 0) return;
  const std::size_t element = size_of(t.type);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(t.columns) * element;
  const std::uint64_t wanted_bytes = static_cast<std::uint64_t>(columns) * element;
  const std::uint64_t begin = t.begin + static_cast<std::uint64_t>(row) * row_bytes;
  const auto last = static_cast<std::uint64_t>(rows - 1);
  if (t.type == StoredType::F32 && columns == t.columns) {
    file_.read_at(begin, out, static_cast<std::uint64_t>(rows) * row_bytes);
    return;
  }
  // Whole rows if they are short or most of each is wanted, else each row's part by itself.
  std::vector<char> buffer(std::min<std::uint64_t>(buffer_bytes, (last + 1) * row_bytes));
  if (row_bytes <= buffer.size() && (row_bytes <= 4096 || row_bytes <= 4 * wanted_bytes)) {
    const auto block_rows = static_cast<std::int64_t>(buffer.size() / row_bytes);
    for (std::int64_t r = 0; r < rows; r += block_rows) {
      const std::int64_t n = std::min(block_rows, rows - r);
      file_.read_at(begin + static_cast<std::uint64_t>(r) * row_bytes, buffer.data(),
                    static_cast<std::uint64_t>(n) * row_bytes);
      for (std::int64_t i = 0; i < n; ++i)
        to_floats(t.type, buffer.data() + static_cast<std::uint64_t>(i) * row_bytes + column * element,
                  static_cast<std::size_t>(columns), out + (r + i) * columns);
    }
    return;
  }
  const auto block_columns = static_cast<std::int64_t>(buffer.size() / element);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; c += block_columns) {
      const std::int64_t n = std::min(block_columns, columns - c);
      file_.read_at(
          begin + static_cast<std::uint64_t>(r) * row_bytes + static_cast<std::uint64_t>(column + c) * element,
          buffer.data(), static_cast<std::size_t>(n) * element);
      to_floats(t.type, buffer.data(), static_cast<std::size_t>(n), out + r * columns + c);
    }
}

void SafetensorsFile::read_rows(const std::string& name, std::int64_t row, std::int64_t rows, float* out) const {
  read_rectangle(name, row, rows, 0, info(name).columns, out);
}

std::vector<char> SafetensorsFile::read_bytes(const std::string& name) const {
  const StoredTensor& tensor = info(name);
  std::vector<char> bytes(tensor.bytes());
  file_.read_at(tensor.begin, bytes.data(), bytes.size());
  return bytes;
}

SafetensorsSet SafetensorsSet::open(const std::string& folder) {
  SafetensorsSet set;
  set.folder_ = folder;
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  if (exists(single) || !exists(index)) {
    for (const char* pickled : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
      if (!exists(single) && exists(folder + "/" + pickled))
        input_error(
            "{}: found {}, expected safetensors; where transformers is installed this writes them beside it: python3 "
            "-c "
            "\"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}', "
            "torch_dtype='auto').save_pretrained('{}')\"",
            folder, pickled, folder, folder);
    if (!exists(single))
      input_error("{}: found neither model.safetensors nor model.safetensors.index.json; expected a Hugging Face model",
                  folder);
    set.shards_.push_back(SafetensorsFile::open(single));
    for (const std::string& name : set.shards_[0].names()) set.shard_of_[name] = 0;
    return set;
  }
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, file] : parse_weight_map(read_regular_text(index, max_index_bytes), index)) {
    const auto [at, fresh] = opened.emplace(file, set.shards_.size());
    if (fresh) set.shards_.push_back(SafetensorsFile::open(folder + "/" + file));
    if (!set.shards_[at->second].contains(name))
      input_error("{}: weight_map: {}: found it mapped to {}, which has no such tensor", index, quote_text(name), file);
    set.shard_of_[name] = at->second;
  }
  return set;
}

std::vector<std::string> SafetensorsSet::names() const {
  std::vector<std::string> names;
  for (const auto& [name, shard] : shard_of_) names.push_back(name);
  return names;
}

const SafetensorsFile& SafetensorsSet::shard(const std::string& name) const {
  const auto found = shard_of_.find(name);
  if (found == shard_of_.end()) input_error("{}: tensor {} is missing", folder_, quote_text(name));
  return shards_[found->second];
}

const StoredTensor& SafetensorsSet::info(const std::string& name) const { return shard(name).info(name); }
void SafetensorsSet::read_rectangle(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                                    std::int64_t columns, float* out) const {
  shard(name).read_rectangle(name, row, rows, column, columns, out);
}
void SafetensorsSet::read_rows(const std::string& name, std::int64_t row, std::int64_t rows, float* out) const {
  shard(name).read_rows(name, row, rows, out);
}
}  // namespace upcycle
