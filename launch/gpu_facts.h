#pragma once
#include <string>

namespace upcycle {

struct Backend;

// "NVIDIA H200, 140 GiB, compute capability 9.0; CUDA 13.0, driver for 13.0; NCCL 2.28.9", or that there is none.
std::string gpu_facts(const Backend& backend);

namespace cuda {
std::string gpu_facts(int gpu);  // in launch/cuda/gpu_facts.cpp, which is compiled only with CUDA
}

}  // namespace upcycle
