#include "launch/check_fits.h"

#include "core/config/fields.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "kernels/cuda_limits.h"

namespace upcycle {

void check_kernel_limits(const std::string& device, const ModelConfig& model, const std::string& name) {
  if (device != "cuda") return;
  const auto check = [&](const char* key, std::int64_t found, std::int64_t most) {
    if (found > most)
      field_error(name, key, fmt::format("{}", found), fmt::format("at most {} on a GPU", most),
                  "lower it, or use --device=cpu");
  };
  check("model.num_local_experts", model.num_local_experts, cuda::kMostExperts);
  check("model.head_dim", model.head_size(), cuda::kLargestHead);
  check("model.hidden_size", model.hidden_size, cuda::kLargestHidden);
}

namespace {

void check_memory(const Backend& backend, const std::vector<MemoryClass>& plan, const char* advice,
                  const char* advice_for_host) {
  constexpr double gib = 1 << 30;
  double on_device = 0, on_host = 0;
  std::string beside_gpu;  // the classes
  for (const MemoryClass& m : plan) {
    (backend.gpu < 0 || m.beside_gpu ? on_host : on_device) += static_cast<double>(m.bytes);
    if (m.beside_gpu)
      beside_gpu +=
          fmt::format("{}{} {:.1f}", beside_gpu.empty() ? "" : ", ", m.name, static_cast<double>(m.bytes) / gib);
  }
  if (backend.gpu >= 0) {
    const auto have = static_cast<double>(memory_of(backend));
    if (on_device > have)
      input_error(
          "memory: found {:.1f} GiB needed on a GPU, expected at most the {:.1f} GiB that are free on GPU {}; {}",
          on_device / gib, have / gib, backend.gpu, advice);
  }
  const int ranks = backend.ranks_on_host;
  const HostMemory memory = host_memory();
  const auto have = static_cast<double>(memory.free), all = static_cast<double>(memory.total);
  if (on_host * ranks <= have) return;
  input_error(
      "memory: found {:.1f} GiB{} needed by each of {} rank{} on this machine, expected at most the {:.1f} GiB in all "
      "that "
      "are free of its {:.1f}; {}",
      on_host / gib, backend.gpu < 0 ? "" : fmt::format(" beside its GPU ({})", beside_gpu), ranks,
      ranks == 1 ? "" : "s", have / gib, all / gib, advice_for_host);
}

}  // namespace

const char* host_advice(bool cuda) {
  return cuda ? "use checkpoint.snapshot=bucket, fewer ranks on each machine, or more machines"
              : "use a smaller model, train.micro_batch_size or train.seq_length, train.recompute=full, "
                "checkpoint.snapshot=bucket, or more machines";
}

void check_fits_machine(const Backend& backend, const std::vector<MemoryClass>& plan) {
  check_memory(
      backend, plan,
      "use a smaller model, train.micro_batch_size or train.seq_length, train.recompute=full, or more machines",
      host_advice(backend.gpu >= 0));
}

void check_fits_inference(const Backend& backend, const std::vector<MemoryClass>& plan) {
  const char* advice = "use --dtype=bf16, more ranks (--parallel.tp, --parallel.ep) or a smaller model";
  check_memory(backend, plan, advice, advice);
}

}  // namespace upcycle
