#pragma once
#include <vector>

#include "core/trace.h"
#include "parallel/comm/mesh.h"

namespace upcycle {

// The collectives that one rank called.
struct CollectiveTable {
  std::vector<CollectiveCount> counts;  // one per (group, op), in the order of their first call
  void record(const std::string& group, const char* op, std::size_t bytes);
};

// The communicators of one rank of a world whose other ranks do not exist. Calls check their arguments as real ones do
// and are recorded in `table` with the bytes that a real one would record; nothing moves, except that integers (which
// the host reads: expert counts) are gathered as if every rank had this one's. The table must outlive the mesh.
Mesh make_dry_mesh(const Layout& layout, int rank, CollectiveTable& table);

}  // namespace upcycle
