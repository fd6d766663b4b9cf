#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {

// All pieces of a rank; their values are there once `copied` is reached. Or they come a bucket at a time, through
// `buffers` (stream_values), from `read`, which is called on the main thread.
struct SavedState {
  std::vector<SavedPiece> pieces;
  Event copied;
  PieceReader read;
  std::vector<std::span<float>> buffers;
  SavedState(std::vector<SavedPiece> pieces_, Event copied_ = {})  // NOLINT: pieces that are there
      : pieces(std::move(pieces_)), copied(std::move(copied_)) {}
};

// Thrown by all ranks with the same text where the state could not be saved (a full disk, a quota, an I/O error on any
// rank): one line with path, error and rank. What was saved before is as it was, and the next save may succeed.
struct SaveFailed : Error {
  using Error::Error;
};

// Writes checkpoints of this rank, one after the other, on the process's one I/O thread, which waits for their copies.
// Several may be under way (pending); they are written and published in the order in which they were started. The
// values of one must stay unchanged until the finish() that publishes it returns.
class CheckpointWriter {
 public:
  // `keep`: which published steps stay in the run folder. Locks RUN while it lives (rank 0) and
  // removes what a killed run left half-written. Collective; a folder in use or not writable is an AgreedError.
  CheckpointWriter(std::string run_dir, Communicator& world, const Retention& keep);
  ~CheckpointWriter();
  // Starts writing step `info.step`, or its weights alone (info.weights_alone); returns at once, or, where the
  // values come a bucket at a time, once they are written. `travel`: files written
  // into the step folder (tokenizer files); only rank 0's bytes count.
  void start(const CheckpointInfo& info, SavedState state, const std::vector<TravellingFile>& travel);
  // Saves that were started and not finished: the same number on all ranks.
  std::int64_t pending() const;
  bool busy() const { return pending() > 0; }
  // Of the oldest of them, where there is one.
  const CheckpointInfo& oldest() const;
  bool written() const;  // this rank's part is done or has failed: finish() will not wait
  // Waits for this rank's part of the oldest, agrees with all ranks (collective), publishes. SaveFailed where any rank
  // failed; then its .tmp folder is removed and `latest` still names the step before, and saves started after it go on.
  // (Where only the last sync failed, the new step is there and `latest` names it: the text says so.) What can not be
  // removed is tried again by the next save.
  void finish();
  // Removes the steps that `keep` leaves out, as finish() does after each save: a run that was killed before it came to
  // that, and has nothing more to save, does it so.
  void remove_old();
  void keep_all();  // from now on no step is removed, whatever `keep` was

 private:
  struct Job;
  std::unique_ptr<Job> job_;
};

}  // namespace upcycle
