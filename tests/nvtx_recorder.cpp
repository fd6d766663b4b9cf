// A minimal NVTX profiler: the library that NVTX_INJECTION64_PATH names. It writes the ranges of a process, one line
// per push ("> thread domain name") or pop ("< thread domain"), to $UPCYCLE_NVTX_RECORD.RANK. The interface is
// described in NVTX's own nvtx3/nvtxDetail/nvtxTypes.h.
#include <nvtx3/nvToolsExt.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>

namespace {

std::FILE* record = nullptr;
std::mutex domains_mutex;
std::deque<std::string> domains;  // a handle is the address of its name: elements of a deque stay where they are

nvtxDomainHandle_t NVTX_API create_domain(const char* name) {
  const std::lock_guard lock(domains_mutex);
  return reinterpret_cast<nvtxDomainHandle_t>(&domains.emplace_back(name));
}
const char* name_of(nvtxDomainHandle_t domain) {
  return domain == nullptr ? "default" : reinterpret_cast<std::string*>(domain)->c_str();
}
int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* range) {
  const bool text = range->version == NVTX_VERSION && range->messageType == NVTX_MESSAGE_TYPE_ASCII;
  std::fprintf(record, "> %d %s %s\n", gettid(), name_of(domain), text ? range->message.ascii : "(no text)");
  return 0;
}
int NVTX_API pop(nvtxDomainHandle_t domain) {
  std::fprintf(record, "< %d %s\n", gettid(), name_of(domain));
  return 0;
}

template <class Function>
void use(NvtxFunctionTable table, int id, Function* function) {
  *table[id] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const char* path = std::getenv("UPCYCLE_NVTX_RECORD");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  if (path == nullptr || callbacks == nullptr) return 0;
  record = std::fopen((std::string(path) + "." + (rank == nullptr ? "0" : rank)).c_str(), "w");
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (record == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  use(table, NVTX_CBID_CORE2_DomainCreateA, create_domain);
  use(table, NVTX_CBID_CORE2_DomainRangePushEx, push);
  use(table, NVTX_CBID_CORE2_DomainRangePop, pop);
  return 1;
}
