#pragma once
#include <string>
#include <vector>

#include "launch/backend.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

// InputError where the kernels of a GPU can not compute this model; `name` says where it comes from.
void check_kernel_limits(const std::string& device, const ModelConfig& model, const std::string& name);

// InputError where this rank's arenas and those of the ranks beside it exceed what is free of the machine's memory; on
// CUDA, where this rank's exceed what is free on its GPU, or what lies in host memory (the checkpoint's snapshot) that
// of the machine. For before any rank takes its arenas: what one has taken the next would no longer find free.
void check_fits_machine(const Backend& backend, const std::vector<MemoryClass>& plan);

// The same of a model that is only read: its weights, in `dtype`, on one rank.
void check_fits_weights(const Backend& backend, const ModelConfig& model, DType dtype);

}  // namespace upcycle
