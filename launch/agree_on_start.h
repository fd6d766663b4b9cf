#pragma once
#include <functional>
#include <string>

#include "core/config/config.h"
#include "parallel/comm/layout.h"
#include "parallel/comm/mpi_session.h"

namespace upcycle {

struct Start {
  Config config;
  Layout layout;
};

// The first thing that a multi-rank command does; a rank whose command line was refused before MPI started joins this
// agreement too, to end all (main.cpp). Reads the config and checks that all ranks run the same command of the same
// binary (version and file hash) with the same config; `command` may have its arguments behind its name: mpirun can
// start ranks differently (two commands joined by a colon, files that differ between hosts), which must be found before
// a rank could wait for ever. Sets the session's time-out. Collective; a difference is an AgreedError that names the
// ranks and what differs.
Start agree_on_start(const MpiSession& session, const std::string& command, const std::function<Config()>& read);

}  // namespace upcycle
