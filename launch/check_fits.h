#pragma once
#include <string>
#include <vector>

#include "launch/backend.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

// InputError if the GPU kernels can not compute this model; `name` says where the model comes from.
void check_kernel_limits(const std::string& device, const ModelConfig& model, const std::string& name);

// InputError if the arenas of this host's ranks exceed the machine's free memory; on CUDA, if this rank's exceed the
// free memory of its GPU, or the host-memory ones (the checkpoint's snapshot) that of the machine. Call it before any
// rank allocates its arenas, which would reduce the free memory that the others see.
void check_fits_machine(const Backend& backend, const std::vector<MemoryClass>& plan);

// What to change where the host memory of a machine is too small for the training ranks on it.
const char* host_advice(bool cuda);

// The same for a model that is only read.
void check_fits_inference(const Backend& backend, const std::vector<MemoryClass>& plan);

}  // namespace upcycle
