#!/bin/bash
# slurm_node.sh UPCYCLE: one of the two nodes of a SLURM job loses power. The job is requeued and, once it is told that one node
# will do, goes on from its newest checkpoint there, with half the ranks, in the same order of data. When the node is back,
# the same run goes on with all ranks.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

steps=22
export UPCYCLE_ELASTIC=1
job_options=(--nodes=1-2) job_train=(--train.steps=14) job_link=1mbit  # steps of half a second
start_job "$steps" "${fewer_exchanges[@]}" --train.schedule=constant --checkpoint.every=5 --parallel.timeout_s=20
wait_for 120 "checkpoint" test -e "$cut/latest"
[[ $(job "$id" NumNodes) == 2 ]] || { echo "FAILED: the job has $(job "$id" NumNodes) nodes, expected 2"; exit 1; }
kill_host vh2
# SLURM remembers the tasks of both nodes, and waits for them until it is told that fewer will do.
requeued() { [[ $(job "$id" JobState) == PENDING ]]; }
wait_for 90 "requeue after the node was lost" requeued
scontrol update JobId="$id" NumTasks=2 NumNodes=1
gone_on() { [[ $(job "$id" Restarts) == 1 ]]; }
wait_for 60 "restart on the node that is left" gone_on
expect_completed
[[ $(job "$id" NumNodes) == 1 ]] || { echo "FAILED: the job has $(job "$id" NumNodes) nodes, expected 1"; exit 1; }

add_host 2
start_node 2
node_is_back() { [[ $(sinfo -h -n vh2 -p low -t idle -o %D) == 1 ]]; }
wait_for 60 "node" node_is_back
job_train=()
submit
expect_completed
layouts=$(sed -n 's/^train.sbatch: going on with //p' "$world/job.out")
all="4 of 4 ranks, --parallel.tp=2 --parallel.ep=4 --parallel.etp=1"
[[ $layouts == "$all"$'\n'"2 of 2 ranks, --parallel.tp=2 --parallel.ep=2 --parallel.etp=1"$'\n'"$all" ]] ||
  { echo "FAILED: went on with $layouts"; exit 1; }
[[ $(grep -c "^resumed $cut/step_" "$world/job.out") == 2 ]] || { echo "FAILED: expected to resume twice"; exit 1; }
[[ $(losses "$cut" | wc -l) == "$steps" ]] || { echo "FAILED: expected $steps steps"; exit 1; }
apart=$(losses_apart "$cut" "$whole") || { echo "FAILED: losses differ by $apart from those on two nodes"; exit 1; }
echo "node lost, went on with 2 of 4 ranks, node back, with all: $steps steps, losses within $apart of those on two nodes"
