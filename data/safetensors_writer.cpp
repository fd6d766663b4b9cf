#include "data/safetensors_writer.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/error.h"
#include "core/half.h"
#include "data/safetensors_header.h"

namespace upcycle {

SafetensorsWriter::SafetensorsWriter(std::string folder, std::uint64_t max_shard_bytes)
    : folder_(std::move(folder)), max_shard_bytes_(max_shard_bytes) {
  UPCYCLE_CHECK(max_shard_bytes_ > 0, "max_shard_bytes is 0");
  std::error_code code;
  if (!std::filesystem::is_directory(folder_, code))
    input_error("{}: expected a folder to write a model into", folder_);
  std::filesystem::directory_iterator entries(folder_, code);
  if (code) input_error("{}: cannot list the folder: {}", folder_, code.message());
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
      input_error("{}: found {}, expected a folder without a model; remove it or choose another folder", folder_, name);
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (finished_) return;
  for (const Shard& shard : shards_) {
    ::unlink(shard.aside.c_str());
    ::unlink((folder_ + "/" + shard.name).c_str());  // finish() may have failed half-way through its renames
  }
}

void SafetensorsWriter::declare(const std::string& name, StoredType type, std::vector<std::int64_t> shape) {
  UPCYCLE_CHECK(shards_.empty(), "{} was declared after the first write", name);
  UPCYCLE_CHECK(name != "__metadata__" && index_of_.emplace(name, tensors_.size()).second, "{} was declared twice",
                name);
  std::uint64_t bytes = size_of(type);
  for (const std::int64_t size : shape)
    UPCYCLE_CHECK(size >= 0 && !__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes),
                  "{}: size {} in its shape", name, size);
  tensors_.push_back({name, type, std::move(shape), bytes, 0, 0, 0});
}

SafetensorsWriter::Declared& SafetensorsWriter::declared(const std::string& name) {
  const auto found = index_of_.find(name);
  UPCYCLE_CHECK(found != index_of_.end(), "{} was never declared", name);
  return tensors_[found->second];
}

void SafetensorsWriter::start() {
  std::vector<std::vector<Declared*>> groups(1);
  std::uint64_t group_bytes = 0;
  for (Declared& tensor : tensors_) {
    if (group_bytes > 0 && (tensor.bytes > max_shard_bytes_ || group_bytes > max_shard_bytes_ - tensor.bytes)) {
      groups.emplace_back();
      group_bytes = 0;
    }
    tensor.shard = groups.size() - 1;
    groups.back().push_back(&tensor);
    group_bytes += tensor.bytes;
  }
  shards_.reserve(groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i)
    start_shard(groups.size() == 1 ? std::string("model.safetensors")
                                   : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, groups.size()),
                groups[i]);
}

void SafetensorsWriter::start_shard(const std::string& name, const std::vector<Declared*>& tensors) {
  // Wide types first, so that every tensor is aligned to its element size: torch makes views of them.
  std::vector<Declared*> order = tensors;
  std::stable_sort(order.begin(), order.end(),
                   [](const Declared* a, const Declared* b) { return size_of(a->type) > size_of(b->type); });
  nlohmann::ordered_json header;
  header["__metadata__"]["format"] = "pt";  // transformers refuses files that do not say which framework they suit
  std::uint64_t end = 0;
  for (Declared* tensor : order) {
    tensor->offset = end;
    end += tensor->bytes;
    header[tensor->name] = {
        {"dtype", name_of(tensor->type)}, {"shape", tensor->shape}, {"data_offsets", {tensor->offset, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  UPCYCLE_CHECK(text.size() <= max_safetensors_header, "{}: a header of {} bytes; readers take {} at most", name,
                text.size(), max_safetensors_header);
  const std::string aside = folder_ + "/" + name + ".tmp";
  shards_.push_back({name, aside, create_file(aside)});
  const FileDescriptor& file = shards_.back().file;
  const std::uint64_t header_bytes = text.size();
  file.write_at(0, &header_bytes, sizeof header_bytes);
  file.write_at(sizeof header_bytes, text.data(), text.size());
  for (Declared* tensor : order) tensor->offset += sizeof header_bytes + header_bytes;
}

void SafetensorsWriter::write_raw(const std::string& name, const void* data, std::size_t bytes) {
  UPCYCLE_CHECK(!finished_, "{} was written after finish", name);
  if (shards_.empty()) start();
  Declared& tensor = declared(name);
  UPCYCLE_CHECK(bytes <= tensor.bytes - tensor.written, "{}: {} bytes written, {} more given, {} declared", name,
                tensor.written, bytes, tensor.bytes);
  shards_[tensor.shard].file.write_at(tensor.offset + tensor.written, data, bytes);
  tensor.written += bytes;
}

void SafetensorsWriter::write(const std::string& name, const float* values, std::size_t count) {
  const StoredType type = declared(name).type;
  if (type == StoredType::F32) return write_raw(name, values, count * sizeof(float));
  UPCYCLE_CHECK(type == StoredType::BF16 || type == StoredType::F16,
                "{}: floats can be written as F32, BF16 and F16, not {}", name, name_of(type));
  const bool brain = type == StoredType::BF16;
  std::vector<std::uint16_t> block(std::min<std::size_t>(count, std::size_t{1} << 19));
  for (std::size_t i = 0; i < count; i += block.size()) {
    const std::size_t n = std::min(block.size(), count - i);
    std::transform(values + i, values + i + n, block.begin(),
                   [&](float x) { return brain ? to_bf16(x).bits : float_to_half(x); });
    write_raw(name, block.data(), n * sizeof block[0]);
  }
}

void SafetensorsWriter::finish() {
  if (shards_.empty()) start();
  std::uint64_t total = 0;
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = 0;
  for (const Declared& tensor : tensors_) {
    UPCYCLE_CHECK(tensor.written == tensor.bytes, "{}: {} bytes written, {} declared", tensor.name, tensor.written,
                  tensor.bytes);
    total += tensor.bytes;
    index["weight_map"][tensor.name] = shards_[tensor.shard].name;
  }
  index["metadata"]["total_size"] = total;
  for (Shard& shard : shards_) {
    shard.file.sync();
    shard.file.close_checked();
  }
  for (const Shard& shard : shards_) rename_durable(shard.aside, folder_ + "/" + shard.name);
  if (shards_.size() > 1) write_text_atomic(folder_ + "/model.safetensors.index.json", index.dump(2) + "\n");
  finished_ = true;
}

}  // namespace upcycle
