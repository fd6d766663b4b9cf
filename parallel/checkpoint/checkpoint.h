#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/model/tensor_source.h"

// Our checkpoints: RUN/step_00000100/ with manifest.json and, per rank, model.rank00003.h5 and optimizer.rank00003.h5.
// model.* holds fp32 masters, each logical element written exactly once, by its owner. Everything is written to
// step_00000100.tmp, flushed and synced, the status agreed by all ranks, the manifest last; then the folder is renamed,
// the parent synced, and RUN/latest names it. A published checkpoint is never modified.
// All HDF5 calls, of writing and reading, go through hdf5_thread(): these functions are not called from its jobs.
namespace upcycle {

// What a checkpoint says beside its tensors.
struct CheckpointInfo {
  ModelConfig model;
  Layout layout;  // that wrote it
  std::int64_t step = 0, consumed_samples = 0, tokens = 0;
  double flops = 0, wall_seconds = 0;                   // training so far
  std::map<std::string, std::int64_t> optimizer_steps;  // a parameter's own step count; empty: no optimizer state
  std::string init;       // what the run started from, e.g. "load dense/" (resuming compares it)
  std::string config;     // the resolved config, JSON text
  std::string tokenizer;  // file name inside the step folder that travels along, "" = none
};

// The three fp32 values of a parameter element that files hold.
enum class StateKind : std::uint8_t { Master, Moment1, Moment2 };

// One rectangle to write; values stay untouched until the save has finished.
struct SavedPiece {
  StateKind kind;
  std::string tensor;
  std::int64_t global_rows = 0, global_columns = 0;
  bool is_vector = false;
  Rectangle part;
  const float* values = nullptr;
};

// All pieces of a rank; their values are there once `copied` is reached.
struct SavedState {
  std::vector<SavedPiece> pieces;
  Event copied;
  SavedState(std::vector<SavedPiece> pieces_, Event copied_ = {})  // NOLINT: pieces that are there
      : pieces(std::move(pieces_)), copied(std::move(copied_)) {}
};

// Writes one checkpoint of this rank at a time, on the process's one I/O thread, which waits for its copies; the values
// must stay unchanged until finish() returns.
class CheckpointWriter {
 public:
  // `keep`: how many newest published steps stay in the run folder, 0 = all. Locks RUN while it lives (rank 0) and
  // removes what a killed run left half-written. Collective; a folder in use or not writable is an AgreedError.
  CheckpointWriter(std::string run_dir, Communicator& world, std::int64_t keep);
  ~CheckpointWriter();
  // Starts writing step `info.step`; returns at once. `travel`: files copied into the step folder (tokenizer files).
  void start(const CheckpointInfo& info, SavedState state, const std::vector<std::string>& travel);
  bool busy() const;
  bool written() const;  // this rank's part is done or has failed: finish() will not wait
  // Waits for this rank's part, agrees with all ranks (collective), publishes. Throws Error where any rank failed; then
  // the .tmp folder is removed and `latest` still names the step before.
  void finish();
  void keep_all();  // from now on no step is removed, whatever `keep` was

 private:
  struct Job;
  std::unique_ptr<Job> job_;
};

// A published checkpoint, opened for reading: any rectangle of any tensor, from whatever pieces were stored.
class Checkpoint : public TensorSource {
 public:
  virtual const CheckpointInfo& info() const = 0;
  virtual const std::string& directory() const = 0;  // the step's folder
  virtual bool has_optimizer() const = 0;
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

// Opens DIR (run folder: the step that `latest` names; or a step folder). Checks the manifest's format version, every
// file's presence and size; hashes each file once when `verify` (with several ranks: each file by one of them, agreed).
// `weights_only`: the optimizer's files, two thirds of the bytes, are neither hashed nor opened; read_state of a moment
// is then an Error.
std::unique_ptr<Checkpoint> open_checkpoint(const std::string& dir, bool verify = true, Communicator* world = nullptr,
                                            bool weights_only = false);

// True where DIR holds a published checkpoint of ours (RUN/latest or manifest.json).
bool is_checkpoint(const std::string& dir);

}  // namespace upcycle
