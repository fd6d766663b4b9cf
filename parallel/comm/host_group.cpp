#include "parallel/comm/host_group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "parallel/comm/comm_mpi.h"

namespace upcycle {
namespace {

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

}  // namespace

HostGroup::Memory::Memory(int file, std::size_t bytes, bool common) : bytes_(bytes), common_(common) {
  const int flags = file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
  UPCYCLE_CHECK(at != MAP_FAILED, "{} bytes can not be mapped: {}", bytes, std::strerror(errno));
  data_ = static_cast<std::byte*>(at);
}

HostGroup::Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

HostGroup::Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_), common_(other.common_) {}

HostGroup::Memory HostGroup::share(std::size_t bytes) const {
  if (ranks_->size() == 1) return {-1, bytes, true};
  // An anonymous file that the others open through the first rank's process: no name stays behind, whatever happens.
  Descriptor file;
  std::string path;
  if (ranks_->rank() == 0) {
    file.value = memfd_create("upcycle", MFD_CLOEXEC);
    UPCYCLE_CHECK(file.value >= 0 && ftruncate(file.value, static_cast<off_t>(bytes)) == 0,
                  "{} bytes of shared memory: {}", bytes, std::strerror(errno));
    path = fmt::format("/proc/{}/fd/{}", getpid(), file.value);
  }
  path = ranks_->broadcast_text(path, 0);
  if (ranks_->rank() != 0) file.value = open(path.c_str(), O_RDWR | O_CLOEXEC);
  const bool common = ranks_->max_of(file.value >= 0 ? 0 : 1) == 0;
  if (!common && ranks_->rank() == 0)
    log_warn("the ranks of this host can not share memory (/proc of rank 0 is not seen): each reads files for itself");
  return {common ? file.value : -1, bytes, common};
}

std::shared_ptr<HostGroup> make_host_group(const MpiSession& session, Stream& stream) {
  return std::make_shared<HostGroup>(
      make_mpi_communicator(session, "host", session.first_on_host(), session.rank(), stream));
}

}  // namespace upcycle
