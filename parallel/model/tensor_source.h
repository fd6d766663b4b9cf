#pragma once
#include <string>

#include "parallel/model/params.h"

namespace upcycle {

// Where parameters come from: a checkpoint of ours, a Hugging Face directory, or a dense one of these seen as the MoE
// it is upcycled to. All are read by canonical name and rectangle, so that each rank takes just the slices it holds,
// whatever layout they were saved in.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::string& name() const = 0;  // for messages: the directory
  virtual const ModelConfig& model() const = 0;
  virtual bool has(const std::string& tensor) const = 0;
  // out: part.rows x part.columns fp32, row-major. A vector is one row. Throws InputError naming file and tensor, also
  // where a value is NaN or infinite, with its index. One thread at a time, not always the same.
  virtual void read(const std::string& tensor, const Rectangle& part, float* out) = 0;
};

}  // namespace upcycle
