#pragma once
#include <memory>
#include <string>

#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

// Opens DIR (run folder: the step that `latest` names; or a step folder). Checks the manifest's format version, every
// file's presence and size; hashes each file once when `verify` (with several ranks: each file by one of them, agreed).
// `weights_only`: the optimizer's files, two thirds of the bytes, are neither hashed nor opened; read_state of a moment
// is then an Error. While it is open no run removes it (read_lock.h).
std::unique_ptr<Checkpoint> open_checkpoint(const std::string& dir, bool verify = true, Communicator* world = nullptr,
                                            bool weights_only = false);

// True where DIR holds a published checkpoint of ours (RUN/latest or manifest.json).
bool is_checkpoint(const std::string& dir);
// Also where `latest` was lost, or is not written yet: there is something for a run to clean or to resume.
bool holds_run(const std::string& dir);

}  // namespace upcycle
