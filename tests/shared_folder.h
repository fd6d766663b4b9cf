#pragma once
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {

// One folder for all ranks, made and removed by rank 0.
struct SharedFolder {
  Communicator& world;
  std::unique_ptr<TemporaryFolder> own;
  std::string path;
  explicit SharedFolder(Communicator& w) : world(w) {
    if (world.rank() == 0) own = std::make_unique<TemporaryFolder>();
    path = world.broadcast_text(own ? own->path.string() : "", 0);
  }
  ~SharedFolder() { world.barrier(); }
};

}  // namespace upcycle
