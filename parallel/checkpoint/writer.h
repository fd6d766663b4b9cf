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

// Writes checkpoints of this rank, one after the other, on the process's one I/O thread, which waits for their copies;
// rank 0 publishes them on a thread of its own.
// Several may be under way (pending); they are written and published in the order in which they were started. The
// values of one must stay unchanged until the advance() or finish() that ends it returns.
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
  // What this rank does for the oldest is done, or has failed: it is written or, once all ranks agreed on that,
  // published, by a thread of rank 0. advance() will not wait for this rank.
  bool ready() const;
  // Collective; one of the two stages of the oldest: all ranks agree that it is written, and its publishing begins
  // (false); they agree that it is published (true). SaveFailed where any rank failed; then its .tmp folder is removed
  // and `latest` still names the step before, and saves started after it go on. (Where only the last sync failed, the
  // new step is there and `latest` names it: the text says so.) What can not be removed is tried again by the next
  // save.
  bool advance();
  // Waits for all ranks and advances, until the oldest is published.
  void finish();
  // Removes the steps that `keep` leaves out, as is done after each publishing: a run that was killed before it came to
  // that, and has nothing more to save, does it so. While nothing is pending.
  void remove_old();
  void keep_all();  // from now on no step is removed, whatever `keep` was

 private:
  struct Job;
  std::unique_ptr<Job> job_;
};

}  // namespace upcycle
