#!/bin/bash
# slurm_death.sh UPCYCLE: a rank of a SLURM job is killed. launch/train.sbatch has it requeued, it goes on from its newest
# checkpoint, and in the end it is the run that nothing interrupted.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

steps=50
start_job "$steps" --checkpoint.every=5
wait_for 60 "checkpoint" test -e "$cut/latest"
for process in /proc/[0-9]*; do
  grep -qz '^SLURM_PROCID=3$' "$process/environ" 2>/dev/null || continue
  [[ $(readlink "$process/exe") == "$UPCYCLE_BINARY" ]] && kill -9 "${process#/proc/}" && break
done
wait_for 120 "restart after the death" restarted 1
expect_completed
grep -q "srun ended with 137" "$world/job.out" || { echo "FAILED: no start ended with 137"; exit 1; }
grep -q "^resumed $cut/step_" "$world/job.out" || { echo "FAILED: the second start did not resume"; exit 1; }
expect_same_run "$cut" "$whole" "$steps"
echo "killed, requeued, resumed: the same $steps steps"
