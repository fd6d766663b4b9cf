#!/bin/bash
# Every function of the CUDA libraries that the real backend calls must exist in the emulation, or tests would run other
# code than GPUs do. check_symbols.sh OBJECTS_OR_LIBRARIES... -- EMULATION_LIBRARIES...
# Objects are of the real backend's C++ files. Kernel files, which need nvcc, are read as text unless a library has them.
set -euo pipefail
kernels=$(cd "$(dirname "$0")/../../kernels/cuda" && pwd)
real=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  real+=("$1")
  shift
done
shift
# What nvcc's own launch code calls; gpu::launch of the emulation does not need them.
launch='^(cudaLaunchKernel|cudaLaunchKernelEx|cudaLaunchKernelExC|cudaFuncSetAttribute|cudaGetFuncBySymbol)$'
undefined=$(nm -u "${real[@]}")
defined=$(nm --defined-only "$@")
called=$(
  {
    awk '$1 == "U" {print $2}' <<<"$undefined" | grep -E '^(cuda|cublas|nccl)[A-Z]' || true
    grep -hoE '\b(cuda|cublasLt|nccl)[A-Z][A-Za-z0-9]*\(' "$kernels"/*.cu "$kernels"/*.cuh | tr -d '(' || true
  } | grep -vE "$launch" | sort -u
)
there=$(awk '$2 == "T" {print $3}' <<<"$defined" | sort -u)
missing=$(comm -23 <(echo "$called") <(echo "$there"))
count=$(wc -w <<<"$called")
if [ "$count" -lt 20 ]; then
  echo "check_symbols: only $count CUDA functions found in: ${real[*]}: these are not the backend"
  exit 1
fi
echo "check_symbols: $count CUDA functions called, by ${#real[@]} objects and the kernel files"
if [ -n "$missing" ]; then
  echo "check_symbols: not emulated:" $missing
  exit 1
fi
