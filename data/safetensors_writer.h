#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "data/files.h"
#include "data/safetensors.h"

namespace upcycle {

// Writes a model's folder as safetensors: model.safetensors, or model-0000i-of-0000n.safetensors and
// model.safetensors.index.json when more than max_shard_bytes of data are declared (a single tensor may be larger).
//
//   SafetensorsWriter writer(folder);
//   writer.declare("a", StoredType::BF16, {4, 8});   // all tensors first
//   writer.write("a", values, 32);                   // then their elements in order, in any number of pieces
//   writer.finish();
//
// Files get their final names in finish(); without it the destructor removes what was written. A folder that already
// holds a model is an InputError: old and new shards would be read as one model.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::string folder, std::uint64_t max_shard_bytes = 5'000'000'000);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void declare(const std::string& name, StoredType type, std::vector<std::int64_t> shape);
  // The next `count` elements of the tensor. F32: bit for bit; BF16, F16: rounded to nearest even, in F16 to infinity
  // where the number is too large.
  void write(const std::string& name, const float* values, std::size_t count);
  // The next bytes of the tensor, unconverted.
  void write_raw(const std::string& name, const void* data, std::size_t bytes);
  // Every declared byte must have been written. Syncs, renames, and writes the index last.
  void finish();

 private:
  struct Declared {
    std::string name;
    StoredType type;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes = 0, written = 0, offset = 0;  // offset: of the data, from the start of the file
    std::size_t shard = 0;
  };
  struct Shard {
    std::string name, aside;
    FileDescriptor file;
  };
  Declared& declared(const std::string& name);
  void start();
  void start_shard(const std::string& name, const std::vector<Declared*>& tensors);

  std::string folder_;
  std::uint64_t max_shard_bytes_;
  std::vector<Declared> tensors_;
  std::map<std::string, std::size_t> index_of_;
  std::vector<Shard> shards_;
  bool finished_ = false;
};

}  // namespace upcycle
