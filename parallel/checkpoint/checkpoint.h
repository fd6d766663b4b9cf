#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "parallel/model/tensor_source.h"

// Our checkpoints: RUN/step_00000100/ with manifest.json and, per rank, model.rank00003.h5 and optimizer.rank00003.h5.
// model.* holds fp32 masters, each logical element written exactly once, by its owner. Everything is written to
// step_00000100.tmp, flushed and synced, the status agreed by all ranks, the manifest last; then the folder is renamed,
// the parent synced, and RUN/latest names it. RUN/model_00000100/ holds weights alone (checkpoint.model_every): the
// same without optimizer.*, its masters in fp32 or rounded to bf16; RUN/latest never names it. A published checkpoint
// is never modified. All HDF5 calls of writer.h and reader.h go through hdf5_thread(), so they must not be called from
// its jobs.
namespace upcycle {

// What a checkpoint holds besides its tensors.
struct CheckpointInfo {
  ModelConfig model;
  Layout layout;  // that wrote it
  std::int64_t step = 0, consumed_samples = 0, tokens = 0;
  double flops = 0, wall_seconds = 0;  // training so far
  std::int64_t skipped_steps = 0, skipped_in_a_row = 0;
  std::vector<double> losses;                           // by which train.max_loss_z_score judges the next
  std::optional<DType> weights_alone;                   // nothing else was saved; the type in the files, F32 or BF16
  std::map<std::string, std::int64_t> optimizer_steps;  // a parameter's own step count; empty: no optimizer state
  std::string init;       // what the run started from, e.g. "load dense/" (resuming compares it)
  std::string config;     // the resolved config, JSON text
  std::string tokenizer;  // file name inside the step folder that travels along, "" = none
};

// The three fp32 values of a parameter element that files hold.
enum class StateKind : std::uint8_t { Master, Moment1, Moment2 };

// A published checkpoint, opened for reading: any rectangle of any tensor, from whatever pieces were stored.
class Checkpoint : public TensorSource {
 public:
  virtual const CheckpointInfo& info() const = 0;
  virtual const std::string& directory() const = 0;  // the step's folder
  virtual int moments() const = 0;                   // of each tensor: 2 AdamW's, 1 Lion's, 0 none
  virtual void read_state(StateKind kind, const std::string& tensor, const Rectangle& part, float* out) = 0;
  // For inspect: names with global shapes, and each file with size and checksum.
  struct TensorShape {
    std::string name;
    std::int64_t rows, columns;
    bool is_vector;
  };
  struct FileEntry {
    std::string name, hash;
    std::int64_t bytes;
  };
  virtual const std::vector<TensorShape>& tensors() const = 0;
  virtual const std::vector<FileEntry>& files() const = 0;
};

}  // namespace upcycle
