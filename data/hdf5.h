#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"

// HDF5 files of two-dimensional rectangles of fp32 or bf16 numbers. bf16 is stored as a custom 16-bit float type (sign
// at bit 15, 8 exponent bits, bias 127), which h5py reads as float32.
//
// The HDF5 library is not thread-safe: make all calls, including the destructor, on one thread (IoThread).
namespace upcycle {

struct Hdf5Attributes {
  std::map<std::string, std::vector<std::int64_t>> numbers;
  std::map<std::string, std::string> texts;
  bool operator==(const Hdf5Attributes&) const = default;
};

struct Hdf5Dataset {
  std::string name;  // "model.norm.weight/0"
  std::int64_t rows = 0, columns = 0;
  DType type = DType::F32;  // F32 or BF16
  Hdf5Attributes attributes;
};

// A tensor is a group; its rectangles are the datasets 0, 1, 2 ... in it: "model.norm.weight/0".
std::string rectangle_name(const std::string& tensor, int index);

// Implemented in hdf5.cpp (open, close, list), hdf5_write.cpp and hdf5_read.cpp.
class Hdf5File {
 public:
  static Hdf5File create(const std::string& path);     // replaces an existing file
  static Hdf5File open_read(const std::string& path);  // InputError: missing, truncated, not HDF5
  ~Hdf5File();                                         // closes; a created file without close() is incomplete
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;

  const std::string& path() const { return path_; }

  // A dataset of (rows, columns), contiguous in the file and in `values`. Slashes in the name make groups.
  void write(const std::string& name, const float* values, std::int64_t rows, std::int64_t columns,
             const Hdf5Attributes& attributes);
  void write(const std::string& name, const bf16* values, std::int64_t rows, std::int64_t columns,
             const Hdf5Attributes& attributes);
  // The same in pieces: declare, then write the rows in order. F32 or BF16; for BF16 floats are rounded to nearest
  // even.
  void declare(const std::string& name, DType type, std::int64_t rows, std::int64_t columns,
               const Hdf5Attributes& attributes);
  void write_rows(const std::string& name, std::int64_t rows, const float* values);
  void write_attributes(const Hdf5Attributes& attributes);  // of the file itself
  // Flush, close, fsync. Every declared row must have been written. Failures are an Error: the file is incomplete.
  void close();

  std::vector<Hdf5Dataset> list() const;  // sorted by name
  Hdf5Attributes attributes() const;      // of the file itself
  // Offset in the file of a listed dataset's values, for reading them without HDF5. InputError unless they are
  // contiguous in the file.
  std::uint64_t offset_of(const Hdf5Dataset& dataset) const;
  // Reads rows [row, row + rows) and columns [column, column + columns) into out (rows, columns); uses at most 1 MiB of
  // other memory. fp32 keeps its bits; reading fp32 as bf16 rounds to nearest even. A damaged file is an InputError.
  void read(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
            float* out) const;
  void read(const std::string& name, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
            bf16* out) const;

 private:
  struct Declared {
    std::int64_t rows = 0, columns = 0, written = 0;
    DType type = DType::F32;
  };
  Hdf5File() = default;
  void write_raw(const std::string& name, DType type, const void* values, std::int64_t rows);

  std::int64_t file_ = -1;  // hid_t
  bool writing_ = false;
  std::string path_;
  std::map<std::string, Declared> declared_;
};

}  // namespace upcycle
