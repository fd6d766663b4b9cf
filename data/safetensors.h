#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "data/files.h"

// Reading Hugging Face's safetensors (https://github.com/huggingface/safetensors, "Format"): 8 bytes of header size, a
// JSON header, then one block of bytes that the tensors cover without overlaps or gaps. To write: safetensors_writer.h.
namespace upcycle {

enum class StoredType : std::uint8_t {
  F64,
  F32,
  F16,
  BF16,
  I64,
  I32,
  I16,
  I8,
  U64,
  U32,
  U16,
  U8,
  Bool,
  F8E5M2,
  F8E4M3
};
std::size_t size_of(StoredType type);  // bytes of one element
const char* name_of(StoredType type);  // as in the header: "BF16"
bool is_float(StoredType type);        // F64, F32, F16, BF16: what read_rows and read_rectangle convert

struct StoredTensor {
  StoredType type = StoredType::F32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the start of the file
  // The two-dimensional view: (n) is (1, n), () is (1, 1), (a, b, c) is (a*b, c).
  std::int64_t rows = 1, columns = 1;
  std::uint64_t bytes() const { return end - begin; }
};

// One file. Opening reads and checks only the header, and allocates no more than the file's size; InputError names
// file, tensor, found and expected. Reads use pread and a bounded buffer, and may run on several threads.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  const StoredTensor& info(const std::string& name) const;  // InputError for an unknown name

  // Rows [row, row + rows) and columns [column, column + columns) of the two-dimensional view, as fp32, into out
  // (rows, columns). Types other than F64, F32, F16 and BF16 are an InputError. F32 keeps its bits, NaNs included.
  void read_rectangle(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                      std::int64_t columns, float* out) const;
  void read_rows(const std::string& name, std::int64_t row, std::int64_t rows, float* out) const;
  std::vector<char> read_bytes(const std::string& name) const;  // the whole tensor as it is stored

 private:
  FileDescriptor file_;
  std::map<std::string, StoredTensor> tensors_;
};

// A model's folder: model.safetensors, or else model.safetensors.index.json and the files that its weight_map names.
// Tensors that the map does not list are ignored.
class SafetensorsSet {
 public:
  static SafetensorsSet open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const { return shard_of_.count(name) != 0; }
  const StoredTensor& info(const std::string& name) const;
  const std::string& path_of(const std::string& name) const { return shard(name).path(); }  // of the tensor's file
  void read_rectangle(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column,
                      std::int64_t columns, float* out) const;
  void read_rows(const std::string& name, std::int64_t row, std::int64_t rows, float* out) const;

 private:
  const SafetensorsFile& shard(const std::string& name) const;
  std::string folder_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t> shard_of_;
};

}  // namespace upcycle
