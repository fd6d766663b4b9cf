#!/bin/bash
# slurm_requeue.sh UPCYCLE: launch/train.sbatch on two nodes of a real SLURM. The run is pre-empted, then signalled as before a
# time limit; each time it saves, is requeued and goes on, and in the end it is the run that nothing interrupted.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

steps=50
start_job "$steps"
wait_for 60 "first steps" steps_done 3
sbatch --parsable --partition=high --nodes=2 --exclusive --output=/dev/null --wrap='sleep 1' >"$world/other"
wait_for 60 "restart after the pre-emption" restarted 1
before=$(lines)
wait_for 60 "steps after the first restart" steps_done $((before + 3))
scancel --signal=USR1 "$id"
wait_for 60 "restart after the signal" restarted 2
expect_completed
[[ $(grep -c "srun ended with 3" "$world/job.out") == 2 ]] || { echo "FAILED: expected to stop twice with 3"; exit 1; }
[[ $(lines) == "$steps" ]] || { echo "FAILED: a step was trained twice"; exit 1; }
expect_same_run "$cut" "$whole" "$steps"
# A command of one rank: srun's PMIx sets none of mpirun's variables, and its other kinds start separate programs.
for kind in pmix none; do
  ! srun --mpi="$kind" --nodes=1 --ntasks=2 "$UPCYCLE_BINARY" inspect "$cut" >"$world/inspect" 2>&1
  [[ $(grep -c "found 2 ranks, expected one" "$world/inspect") == 1 ]] ||
    { echo "FAILED: two ranks inspect under srun --mpi=$kind"; cat "$world/inspect"; exit 1; }
done
echo "pre-empted, signalled, requeued twice: the same $steps steps"
