#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace upcycle {

// Each rank's place in a buffer is `bytes` long and starts `extent` bytes after the previous rank's. Places are
// addressed by index, so that no byte offset has to fit an int.
struct Places {
  std::size_t bytes, extent;
};

// A group of ranks in MPI. Each call starts one non-blocking MPI call; at most one is in flight. Its memory and counts
// must stay untouched until test() returns true. Throws Error where MPI does.
class MpiGroup {
 public:
  // Splits the world: ranks of one color form a group, in the order of key. Every rank of the world calls this, for all
  // groups in the same order.
  MpiGroup(int color, int key);
  ~MpiGroup();  // leaks MPI's handle unless free() was called
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  void free();  // a call of all ranks of the group

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(world_ranks_.size()); }
  const std::vector<int>& world_ranks() const { return world_ranks_; }

  // Counts and offsets (size) are in places.
  void all_to_all_v(const std::byte* from, const int* send_counts, const int* send_offsets, Places sent, std::byte* to,
                    const int* recv_counts, const int* recv_offsets, Places received);
  void all_gather(const std::byte* from, std::byte* to, std::size_t bytes);
  void all_gather_in_place(std::byte* data, Places places);
  // Bytes, whose offsets do have to fit an int. from null: in place.
  void all_gather_v(const std::byte* from, std::byte* to, const int* counts, const int* offsets);
  void broadcast(std::byte* data, std::size_t bytes, int root);
  void barrier();

  bool test();  // true when nothing is in flight

 private:
  struct Handles;
  std::unique_ptr<Handles> mpi_;
  int rank_ = 0;
  std::vector<int> world_ranks_;
};

}  // namespace upcycle
