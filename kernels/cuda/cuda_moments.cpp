#include "kernels/cuda/cuda_moments.h"

#include <cuda_runtime.h>

#include "core/cuda_error.h"

namespace upcycle {
namespace {

class CudaMoments final : public Moments {
 public:
  explicit CudaMoments(int device) : device_(device) {}
  ~CudaMoments() override {
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
  }
  CudaMoments(const CudaMoments&) = delete;
  CudaMoments& operator=(const CudaMoments&) = delete;

  std::size_t record(Stream& stream) override {
    UPCYCLE_CUDA(cudaSetDevice(device_));
    cudaEvent_t event = nullptr;
    UPCYCLE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDefault));
    events_.push_back(event);
    UPCYCLE_CUDA(cudaEventRecord(event, static_cast<cudaStream_t>(stream.native())));
    return events_.size() - 1;
  }

  // CUDA gives milliseconds as a float, which loses microseconds within seconds: each is counted from a near one.
  std::vector<double> seconds() override {
    constexpr std::size_t kNear = 256;
    std::vector<double> all(events_.size());
    for (std::size_t i = 1; i < events_.size(); ++i) {
      const std::size_t from = (i - 1) / kNear * kNear;
      UPCYCLE_CUDA(cudaEventSynchronize(events_[i]));
      float ms = 0;
      UPCYCLE_CUDA(cudaEventElapsedTime(&ms, events_[from], events_[i]));
      all[i] = all[from] + static_cast<double>(ms) / 1e3;
    }
    return all;
  }

 private:
  int device_;
  std::vector<cudaEvent_t> events_;
};

}  // namespace

std::unique_ptr<Moments> make_cuda_moments(int device) { return std::make_unique<CudaMoments>(device); }

}  // namespace upcycle
