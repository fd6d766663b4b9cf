#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/staging.h"
#include "parallel/model/params.h"

namespace upcycle {

class HostGroup;

// Where parameters come from: a checkpoint of ours, a Hugging Face directory, or a dense one of these seen as the MoE
// it is upcycled to. All are read by canonical name and rectangle, so that each rank takes just the slices it holds,
// whatever layout they were saved in.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::string& name() const = 0;  // for messages: the directory
  virtual const ModelConfig& model() const = 0;
  virtual bool has(const std::string& tensor) const = 0;
  // out: part.rows x part.columns fp32, row-major. A vector is one row. Throws InputError naming file and tensor,
  // also where a value is NaN or infinite, with its index. One thread at a
  // time, not always the same.
  virtual void read(const std::string& tensor, const Rectangle& part, float* out) = 0;
};

// DIR is a run folder (its newest step is used), one step's folder, or a Hugging Face directory (config.json and
// safetensors). Validates everything that reading will rely on; hashes our files once (see open_checkpoint, also for
// `world`: with it, a collective call whose InputErrors are agreed).
std::unique_ptr<TensorSource> open_model(const std::string& dir, Communicator* world = nullptr);

// Takes the values of `part`, whole rows of row.part.
using StoreRows = std::function<void(const ParamRow& row, const Rectangle& part, const float* values)>;

// Fills this rank's part of every row of the table from `source`, through a buffer of at most `buffer_bytes`:
// `store` is called with consecutive pieces of row.part. Throws InputError where the source lacks a tensor. `host`: a
// call of all its ranks, which read each byte once among them (read_once.h).
void load_parameters(const ParamTable& table, TensorSource& source, std::size_t buffer_bytes, const StoreRows& store,
                     const HostGroup* host = nullptr);

// The usual `store`: rounds into flat buffers of parameters (bf16 or fp32).
void store_rows(const ParamRow& row, const Rectangle& part, const float* values, Staging& staging, const Tensor& dense,
                const Tensor& expert);
void load_weights(const ParamTable& table, TensorSource& source, Staging& staging, const Tensor& dense,
                  const Tensor& expert);

}  // namespace upcycle
