#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/safetensors.h"
#include "parallel/model/rectangles.h"

// The files of a dump: DIR/rank00003/dump.json lists the pieces that this rank had, safetensors files beside it hold
// their values. A tensor is global: each rank has rectangles of it, and those of any layout make the same tensor.
namespace upcycle {

struct DumpTensor {
  std::string name;
  std::string kind;                               // "activation", "activation_gradient", "parameter_gradient"
  std::pair<std::int64_t, std::int64_t> order{};  // of the step: microbatch, place in it
  StoredType type = StoredType::F32;
  std::vector<std::int64_t> shape;  // global: (n), which is one row to a Rectangle, or (rows, columns)
};

// Of one rank. Values are held until there are kFlushBytes of them, then written.
class DumpWriter {
 public:
  static constexpr std::size_t kFlushBytes = std::size_t{256} << 20;

  // Makes DIR/rankNNNNN. `world`: ranks whose pieces make the tensors.
  DumpWriter(const std::string& dir, int rank, int world, std::int64_t step);
  // `values`: the rectangle's elements, row-major.
  void add(const DumpTensor& tensor, const Rectangle& part, std::vector<char> values);
  void finish();  // writes the rest, and the list last

 private:
  struct Piece {
    DumpTensor tensor;
    Rectangle part;
    std::string file, stored, hash;  // the folder's file, the tensor's name in it
  };
  void flush();

  std::string folder_;
  int world_;
  std::int64_t step_;
  std::vector<Piece> pieces_;
  std::map<std::string, int> pieces_of_;   // by tensor, so far
  std::vector<std::vector<char>> values_;  // of the last pieces, not written yet
  std::size_t bytes_ = 0, files_ = 0;
};

// DIR of all ranks, put together. Throws InputError naming file or tensor where one is missing, not whole, or not what
// its hash says.
class DumpReader {
 public:
  explicit DumpReader(const std::string& dir);
  static bool is_dump(const std::string& dir);

  const std::vector<DumpTensor>& tensors() const { return tensors_; }  // in the order of the step
  std::vector<char> read(std::size_t tensor) const;                    // the whole tensor, row-major

 private:
  struct Piece {
    Rectangle part;
    std::size_t file;
    std::string stored, hash;
  };
  std::string dir_;
  std::vector<SafetensorsFile> files_;
  std::vector<DumpTensor> tensors_;
  std::vector<std::vector<Piece>> pieces_;  // by tensor
};

}  // namespace upcycle
