#!/bin/bash
# slurm_limit.sh UPCYCLE: a SLURM job that needs more than its time limit of a minute. SLURM itself warns it before the
# limit; it saves, is requeued and goes on, as often as it takes, and in the end it is the run that nothing interrupted.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

steps=70
job_options=(--time=1 --signal=USR1@15) # which SLURM sends up to half a minute early
job_link=500kbit                        # steps of a second
start_job "$steps" "${fewer_exchanges[@]}"
wait_for 400 "end of the job" ended
[[ $(job "$id" JobState) == COMPLETED ]] || { echo "FAILED: the job is $(job "$id" JobState)"; exit 1; }
restarts=$(job "$id" Restarts)
((restarts >= 1)) || { echo "FAILED: the job ended within its limit: give it more steps"; exit 1; }
[[ $(grep -c "srun ended with 3" "$world/job.out") == "$restarts" ]] || { echo "FAILED: expected to stop $restarts times with 3"; exit 1; }
[[ $(lines) == "$steps" ]] || { echo "FAILED: a step was trained twice"; exit 1; }
expect_same_run "$cut" "$whole" "$steps"
echo "warned of its time limit $restarts times: the same $steps steps"
