#pragma once
#include <cstddef>
#include <memory>

#include "parallel/comm/communicator.h"

namespace upcycle {

class MpiSession;

// The ranks of one host, which can share memory: what one of them read need not be read again by the others.
class HostGroup {
 public:
  explicit HostGroup(std::shared_ptr<Communicator> ranks) : ranks_(std::move(ranks)) {}
  Communicator& ranks() const { return *ranks_; }

  // Zeroed memory, unmapped on destruction. `common`: all ranks of the group see the same.
  class Memory {
   public:
    Memory(int file, std::size_t bytes, bool common);
    ~Memory();
    Memory(Memory&& other) noexcept;
    Memory& operator=(Memory&&) = delete;
    std::byte* data() const { return data_; }
    bool common() const { return common_; }

   private:
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
    bool common_ = false;
  };
  // A call of all ranks of the group. Where they can not share (each in its own container) each gets memory of its own,
  // and rank 0 warns.
  Memory share(std::size_t bytes) const;

 private:
  std::shared_ptr<Communicator> ranks_;
};

// A call of all ranks of the world.
std::shared_ptr<HostGroup> make_host_group(const MpiSession& session, Stream& stream);

}  // namespace upcycle
