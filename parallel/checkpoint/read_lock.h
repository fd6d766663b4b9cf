#pragma once
#include <optional>
#include <string>

#include "data/files.h"

namespace upcycle {

// A checkpoint's folder that is being read is not removed: whoever reads holds a shared flock on its manifest, whoever
// would remove it an exclusive one. The kernel releases them however a process ends. On file systems without flock
// nothing is held, and nothing is known.
class ReadLock {
 public:
  // InputError where the folder is being removed, or has no manifest.
  explicit ReadLock(const std::string& step_folder);

 private:
  FileDescriptor manifest_;
};

// To be held while the folder is removed. Null where another process, or this one, reads it.
class RemovalLock {
 public:
  static std::optional<RemovalLock> try_lock(const std::string& step_folder);

 private:
  FileDescriptor manifest_;
};

}  // namespace upcycle
