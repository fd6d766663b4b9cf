#!/bin/bash
# slurm_controller.sh UPCYCLE: SLURM's controller is killed and started again while a job trains, which takes no notice. The new
# controller knows the job: a signal still has it saved, requeued and gone on with, and in the end it is the run that nothing
# interrupted.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

steps=40 job_link=1mbit  # steps of half a second
start_job "$steps" "${fewer_exchanges[@]}"
wait_for 60 "first steps" steps_done 3
restart_controller
wait_for 60 "answer of the new controller" restarted 0
scancel --signal=USR1 "$id"
wait_for 60 "restart after the signal" restarted 1
expect_completed
[[ $(grep -c "srun ended with 3" "$world/job.out") == 1 ]] || { echo "FAILED: expected to stop once with 3"; exit 1; }
[[ $(lines) == "$steps" ]] || { echo "FAILED: a step was trained twice"; exit 1; }
expect_same_run "$cut" "$whole" "$steps"
echo "controller killed and started again, requeued: the same $steps steps"
