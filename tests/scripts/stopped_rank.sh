#!/bin/bash
# stopped_rank.sh UPCYCLE_HOOKED [full]: each rank in turn stops (SIGSTOP) in each phase of a run. The run ends in time, with
# a line that names it, a report that says it stopped where it stopped and shows the others' stacks; no process of it is left.
# In time: the time-out, 15 s, as long again where the others stand inside MPI, and what a busy machine adds.
# By default each phase once, on two ranks; full: each rank of two and of four in each phase.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../cluster/small_run.sh"
hooked=$(readlink -f "$1")
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
make_small_run "$hooked" "$world" 100000
failed=0

# On a busy machine a rank may compute for seconds. Where one did not even come to its phase in time, more time is given.
stops() {  # ranks rank phase
  local timeout
  for timeout in 15 90; do
    stops_in "$@" $timeout && return
    grep -q '^place_hooks: .* stops at ' "$world/$1.$2.$3.log" && break
    echo "rank $2 of $1 did not come to $3 within $timeout s"
    rm -rf "$world/$1.$2.$3"
  done
  return 1
}

stops_in() {  # ranks rank phase time-out
  local run=$world/$1.$2.$3 timeout=$4 code=0 report stopped ended took said
  UPCYCLE_TEST_STOP=$2:$3 timeout -k 1 $((8 * timeout + 130)) mpirun --quiet --oversubscribe --bind-to none -n "$1" "$hooked" train "$world/run.json" \
    --parallel.ep=2 --parallel.timeout_s=$timeout --checkpoint.dir="$run" --checkpoint.every=2 --train.eval_every=3 --train.eval_steps=1 \
    --data.valid="$world/text" >"$run.log" 2>&1 || code=$?
  ended=$(date +%s.%N)
  stopped=$(sed -n 's/^place_hooks: rank [0-9]* stops at //p' "$run.log")
  [[ -n $stopped || $code == 0 ]] || return 1
  took=$(jq -n "$ended - ${stopped:-0} | . * 10 | round / 10")
  said=$(grep -m 1 '^upcycle: rank ' "$run.log") || true
  report=$run/timeout_report.txt
  [[ -e $report ]] || report=$run.log  # before there is a folder
  if ((code == 0 || code == 124 || ${took%.*} > 2 * timeout + 60)) ||
    ! grep -qE "rank $2 (on [^ ]+ did not arrive.*timeout_s = $timeout\)|of this host stopped \(state T)" <<<"$said" ||
    ! grep -qE "^rank $2 on [^ ]+: process [0-9]+ stopped \(state T.*[ ;]$3, for " "$report" ||
    (($(grep -cE '^  upcycle::(TransferQueue::finish|make_mpi_communicator)\(.* in ' "$report") < $1 - 1)); then
    tail -n 30 "$run.log" >&2
    [[ -e $run/timeout_report.txt ]] && cat "$report" >&2
    echo "FAILED: rank $2 of $1 stopped while $3: exit code $code, $took s after it"
    return 1
  fi
  echo "$took (parallel.timeout_s = $timeout)" >>"$world/times"
  echo "rank $2 of $1 stopped while $3: ended with $code, $took s after it: ${said#upcycle: }"
}

phases=(loading forward backward reducing updating evaluating saving)
cases=()
for ((i = 0; i < ${#phases[@]}; i++)); do
  if [[ ${2:-} == full ]]; then
    for ranks in 2 4; do
      for ((r = 0; r < ranks; r++)); do cases+=("$ranks $r ${phases[i]}"); done
    done
  else
    cases+=("2 $((i % 2)) ${phases[i]}")
  fi
done
for one in "${cases[@]}"; do
  while (($(jobs -rp | wc -l) >= 3)); do wait -n || failed=1; done  # they mostly wait
  stops $one &
done
while (($(jobs -p | wc -l) > 0)); do wait -n || { (($? == 127)) && break; failed=1; }; done
if pgrep -f "$world/run.json" >"$world/left"; then
  echo "FAILED: processes are left: $(<"$world/left")"
  failed=1
fi
((failed == 0)) || exit 1
echo "${#cases[@]} runs, each ended with the name of the rank that stopped, seconds after it stopped: $(sort -n "$world/times" | sed -n '1p;$p' | paste -sd, | sed 's/,/ to /')"
