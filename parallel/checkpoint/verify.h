#pragma once
#include <string>

namespace upcycle {

class Communicator;

// Damaged: bytes are missing or are not those that were written. Unreadable: they may be, but this machine can not tell
// (no permission, an I/O error, a newer format), or only one rank finds them damaged, whose own memory, cache or mount
// may be at fault.
struct Verdict {
  enum class Kind { Intact, Damaged, Unreadable } kind = Kind::Intact;
  std::string reason;  // one line that names the file
  bool intact() const { return kind == Kind::Intact; }
};

// Compares every byte of a step's folder with what was written: the manifest with its own hash, each file that it lists
// with the manifest's size and hash. Each file is read once, by one rank (rank_that_hashes), and once more by rank 0
// where another finds it damaged. No file is opened by the HDF5 library. Collective; all ranks return the same.
Verdict verify_step(const std::string& folder, Communicator& world);

// The step folder of RUN from which training goes on: the one that `latest` names, or, where that or `latest` is
// damaged, the newest intact one before it, with one warning per damage. Then the damaged steps are set aside
// (publish.h) and `latest` names the intact one. "": RUN holds no step. Hold RUN's lock. Collective. AgreedError where
// no step is intact or one is unreadable: then nothing was changed.
std::string newest_intact_step(const std::string& run_dir, Communicator& world);

}  // namespace upcycle
