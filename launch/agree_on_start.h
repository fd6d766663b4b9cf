#pragma once
#include <functional>

#include "core/config/config.h"
#include "parallel/comm/layout.h"
#include "parallel/comm/mpi_session.h"

namespace upcycle {

struct Start {
  Config config;
  Layout layout;
};

// First of all that a command of many ranks does: a rank whose command line was refused before MPI ran joins here and
// ends all (main.cpp). Reads the config and agrees that all ranks run one command of one binary (by version and by the
// file's hash) with one config: what mpirun can start differently on some ranks (two commands joined by a colon, files
// that differ between hosts) is found before anything that would wait for ever. Sets the session's time-out. A
// collective call; a difference is an AgreedError that names the ranks and what differs.
Start agree_on_start(const MpiSession& session, const char* command, const std::function<Config()>& read);

}  // namespace upcycle
