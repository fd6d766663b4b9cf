#!/bin/bash
# Prints what nvcc made of each kernel of a built library, and fails where that is not what sass_expectations.txt says:
# spills, blocks an SM can hold, tensor-core instructions, 128-bit accesses. Needs no GPU and compiles nothing.
# check_cubins.sh [--only=sm_90] LIBRARY...
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "check_cubins: which library? (launch/build.sh --preset cuda makes build/cuda/libkernels_cuda.a)" >&2; exit 2; }
PATH=$PATH:$PWD/build/deps/cuda_tools/bin:/usr/local/cuda/bin
for tool in cuobjdump nvdisasm; do
  if ! command -v $tool >/dev/null; then
    echo "not run: cubins: no $tool (launch/install.sh cuda_tools): blocks an SM, tensor-core instructions and 128-bit accesses"
    echo "are not checked; spills are, by ptxas in the cuda preset's build"
    exit 77
  fi
done
exec python3 tests/cuda_host/sass_table.py tests/cuda_host/sass_expectations.txt "$@"
