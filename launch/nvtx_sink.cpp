#include "launch/nvtx_sink.h"

#ifdef UPCYCLE_NVTX
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#endif

namespace upcycle {

#ifdef UPCYCLE_NVTX
namespace {

class NvtxSink final : public TraceSink {
 public:
  explicit NvtxSink(nvtxDomainHandle_t domain) : domain_(domain) {}

  void begin(std::string_view name) override {
    // NVTX needs a C string; it is on the stack because a step must not allocate.
    std::array<char, 128> text{};
    std::copy_n(name.begin(), std::min(name.size(), text.size() - 1), text.begin());
    nvtxEventAttributes_t range{};
    range.version = NVTX_VERSION;
    range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    range.messageType = NVTX_MESSAGE_TYPE_ASCII;
    range.message.ascii = text.data();
    nvtxDomainRangePushEx(domain_, &range);
  }
  void end() override { nvtxDomainRangePop(domain_); }

 private:
  nvtxDomainHandle_t domain_;
};

}  // namespace

std::unique_ptr<TraceSink> make_nvtx_sink() {
  const nvtxDomainHandle_t domain = nvtxDomainCreateA("upcycle");
  return domain == nullptr ? nullptr : std::make_unique<NvtxSink>(domain);
}
#else
std::unique_ptr<TraceSink> make_nvtx_sink() { return nullptr; }
#endif

}  // namespace upcycle
