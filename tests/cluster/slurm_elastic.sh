#!/bin/bash
# slurm_elastic.sh UPCYCLE: with UPCYCLE_ELASTIC launch/train.sbatch takes the tasks that an allocation has: half of them on one node,
# in a layout that fits them, then, with the same command, all on two nodes. Fewer than allowed are refused.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

make_small_run "$UPCYCLE_BINARY" "$world" 4
mpi_environment
add_host 1
add_host 2
start_slurm 2
cut=$world/cut
train=("$world/run.json" --parallel.tp=2 --parallel.ep=4 --train.schedule=constant "${fewer_exchanges[@]}")
export UPCYCLE_ELASTIC=2
job_options=(--nodes=1) job_train=(--train.steps=2)
submit
expect_completed
job_options=() job_train=()
submit
expect_completed
expected="2 of 2 ranks, --parallel.tp=2 --parallel.ep=2 --parallel.etp=1
4 of 4 ranks, --parallel.tp=2 --parallel.ep=4 --parallel.etp=1"
[[ $(sed -n 's/^train.sbatch: going on with //p' "$world/job.out") == "$expected" ]] || { echo "FAILED: expected $expected"; exit 1; }
grep -q "^resumed $cut/step_00000002 at step 2" "$world/job.out" || { echo "FAILED: the second job did not resume"; exit 1; }
[[ $(lines) == 4 ]] || { echo "FAILED: expected 4 steps"; exit 1; }
export UPCYCLE_ELASTIC=3
job_options=(--nodes=1)
submit
wait_for 60 "end of the job" ended
[[ $(job "$id" ExitCode) == 2:0 ]] && grep -q "2 of 2 ranks fit this run, UPCYCLE_ELASTIC asks for 3 at least" "$world/job.out" ||
  { echo "FAILED: exit code $(job "$id" ExitCode), expected 2 and a line about UPCYCLE_ELASTIC"; exit 1; }
echo "one node, 2 ranks; then two nodes, 4 ranks, in one run; 2 ranks refused where 3 are asked for"
