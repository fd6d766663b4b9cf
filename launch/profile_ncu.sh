#!/usr/bin/env bash
# Nsight Compute on kernels of rank 0 of a run on this machine, in some of its steps:
#   launch/profile_ncu.sh [-n RANKS] [-o FOLDER] [--first STEP] [--last STEP] [--kernels REGEX] [--count N] train run.json ...
# Writes FOLDER/rank0.ncu-rep (default: profile, steps 10 to 12 or bench step's last two, the first 50 launches of kernels of our own, whose
# names contain "upcycle"). Kernels are replayed for each group of counters, which NCCL's kernels do not survive: a filter must
# exclude them. UPCYCLE_BINARY names another binary.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -n ${UPCYCLE_PROFILED:-} ]]; then # one rank, started by run_local.sh as its binary
  rank=${OMPI_COMM_WORLD_RANK:-0}
  ((rank == 0)) || exec "$UPCYCLE_PROFILED" "$@"
  exec ncu --export="$UPCYCLE_PROFILE_FOLDER/rank0" --force-overwrite --set=full --profile-from-start=off \
    --kernel-name-base=demangled --kernel-name="regex:$UPCYCLE_PROFILE_KERNELS" \
    --launch-count="$UPCYCLE_PROFILE_COUNT" "$UPCYCLE_PROFILED" "$@"
fi
source "$root/launch/profile_options.sh"
profile_options ncu "Nsight Compute" "$@"

if [[ $device == cpu ]]; then
  echo "profile_ncu.sh: found --device=cpu, expected cuda: Nsight Compute measures kernels of a GPU" >&2
  exit 2
fi
export UPCYCLE_PROFILE_KERNELS=$kernels UPCYCLE_PROFILE_COUNT=$count
words+=(--parallel.timeout_s=3600) # the other ranks wait while kernels are run again and again
profile_ranks "$root/launch/profile_ncu.sh"
