#!/bin/bash
# lost_rank.sh UPCYCLE: a rank that hangs, one that dies and a link that is cut each end a run of two hosts within the
# time-out, with a line that names who is missing, and a report of every rank that can be known of.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/hosts.sh"
source "$here/small_run.sh"
need mpirun jq
enter_world "$@"

upcycle=$(readlink -f "$1")
make_small_run "$upcycle" "$world" 1000000
mpi_environment
# A host that is gone does not answer mpirun's order to end either: Linux tries to tell it for 15 minutes, here for seconds.
echo 5 >/proc/sys/net/ipv4/tcp_retries2
add_host 1
add_host 2

rank_process() {  # rank: its process id
  local process
  for process in /proc/[0-9]*; do
    grep -qz "^OMPI_COMM_WORLD_RANK=$1$" "$process/environ" 2>/dev/null || continue
    [[ $(readlink "$process/exe") == "$upcycle" ]] && echo "${process#/proc/}" && return
  done
  return 1
}

loses() {  # name pattern command...: the run that the command harms must say the pattern and end
  local name=$1 says=$2 run=$world/$1 log=$world/$1.log code=0 start tries
  shift 2
  mpirun -H vh1:2,vh2:2 -n 4 "$upcycle" train "$world/run.json" --parallel.tp=2 --parallel.ep=4 \
    --parallel.timeout_s="$timeout" --checkpoint.dir="$run" >"$log" 2>&1 &
  local job=$!
  for ((tries = 0; tries < 3000; tries++)); do
    [[ -s $run/metrics.jsonl ]] && break
    sleep 0.1
  done
  start=$SECONDS
  "$@"
  for ((tries = 0; tries < 1500; tries++)); do
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
  done
  if kill -9 "$job" 2>/dev/null; then
    code="none in 150 s"
  else
    wait "$job" || code=$?
  fi
  if [[ $code == none* || $code == 0 ]] || ! grep -qE "$says" "$log"; then
    grep -vE '^step|^[{}]' "$log" | tail -n 40 >&2
    echo "FAILED: $name: exit code $code, expected one but 0, and /$says/"
    return 1
  fi
  echo "$name: ended with $code after $((SECONDS - start)) s: $(grep -E -m 1 "$says" "$log")"
}

reports() {  # name pattern...: its report has a line for each; of a cut link each side writes one
  local run=$world/$1 pattern
  shift
  for pattern in "$@"; do
    cat "$run"/timeout_report*.txt | grep -E "$pattern" >/dev/null && continue
    cat "$run"/timeout_report*.txt >&2
    echo "FAILED: no report in $run has a line /$pattern/"
    return 1
  done
}
stacks() { grep -cE '^  upcycle::TransferQueue::finish.* in ' "$world/$1/timeout_report.txt"; }

stop_rank() { kill -STOP "$(rank_process 3)"; }
stop_host() { kill -STOP "$(rank_process 2)" "$(rank_process 3)"; }
kill_rank() { kill -KILL "$(rank_process 3)"; }
timeout=15  # on a busy machine a rank may compute for seconds
loses killed "process rank 3 .* on node vh2 exited on signal 9" kill_rank
loses stopped "rank 3 on vh2 did not arrive.*parallel.timeout_s = 15" stop_rank
# Rank 2 speaks for its host: for itself, and for rank 3, whose record it sees.
reports stopped "^rank 3 on vh2: process [0-9]+ stopped \(state T.*last collective: " "^stack: none, its process stopped"
[[ $(stacks stopped) == 3 ]] || { echo "FAILED: expected the stacks of ranks 0 to 2"; exit 1; }
loses stopped_host "ranks? 2.*3 on vh2 did not arrive" stop_host
reports stopped_host "^rank 1 on vh1: process [0-9]+ running" "^ranks 2-3 on vh2: no rank there answers"
loses cut "ranks? 2.*3 on vh2 did not arrive.*parallel.timeout_s = 15" cut vh2
reports cut "^rank 0 on vh1: process [0-9]+ running" "^ranks 2-3 on vh2: no rank there answers"
join vh2
# Where mpirun looks after its connections it notices sooner than the ranks, and names the host.
timeout=600
export OMPI_MCA_oob_tcp_keepalive_time=2 OMPI_MCA_oob_tcp_keepalive_intvl=1 OMPI_MCA_oob_tcp_keepalive_probes=3
loses keepalive "emote daemon.*vh2" cut vh2
