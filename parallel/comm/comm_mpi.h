#pragma once
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_session.h"
#include "parallel/comm/rounds.h"

namespace upcycle {

// Splits the session's ranks: those of one color form a group, in the order of key. Every rank of the world calls this,
// for all groups in the same order. Transfers advance when `stream`, which must outlive it, is polled. A group of one
// yields the single-rank communicator.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiSession& session, std::string name, int color, int key,
                                                    Stream& stream, const MpiLimits& limits = {});

}  // namespace upcycle
