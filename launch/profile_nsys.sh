#!/usr/bin/env bash
# Nsight Systems on the ranks of a run on this machine, over some of its steps:
#   launch/profile_nsys.sh [-n RANKS] [-o FOLDER] [--first STEP] [--last STEP] train run.json ...
# Writes FOLDER/rank0.nsys-rep and so on (default: profile, one rank, steps 10 to 12, so the run needs 12 steps; of bench
# step its last two). The device is
# cuda unless --device=cpu is given: then the NVTX ranges and MPI calls are recorded. UPCYCLE_BINARY names another binary.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -n ${UPCYCLE_PROFILED:-} ]]; then # one rank, started by run_local.sh as its binary
  exec nsys profile --output="$UPCYCLE_PROFILE_FOLDER/rank${OMPI_COMM_WORLD_RANK:-0}" --force-overwrite=true \
    --sample=none --cpuctxsw=none --mpi-impl=openmpi ${UPCYCLE_PROFILE_OPTIONS} "$UPCYCLE_PROFILED" "$@"
fi
source "$root/launch/profile_options.sh"
profile_options nsys "Nsight Systems" "$@"

if [[ $device == cpu ]]; then
  # The range names are not registered with NVTX strings: without this nsys would not match them.
  export NSYS_NVTX_PROFILER_REGISTER_ONLY=0
  options="--trace=nvtx,mpi --capture-range=nvtx --nvtx-capture=profile@upcycle --capture-range-end=stop"
else
  options="--trace=cuda,cublas,nvtx,mpi --capture-range=cudaProfilerApi --capture-range-end=stop"
fi
export UPCYCLE_PROFILE_OPTIONS=$options
profile_ranks "$root/launch/profile_nsys.sh"
