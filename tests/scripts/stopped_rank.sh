#!/bin/bash
# stopped_rank.sh UPCYCLE_HOOKED [full]: each rank in turn stops (SIGSTOP) in each phase of a run. The run ends in time, with
# a line that names it, a report that says it stopped where it stopped and shows the others' stacks; no process of it is left.
# By default each phase once, on two ranks; full: each rank of two and of four in each phase.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../cluster/small_run.sh"
hooked=$(readlink -f "$1")
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
make_small_run "$hooked" "$world" 100000
timeout=15  # on a busy machine a rank may compute for seconds
failed=0

stops() {  # ranks rank phase
  local run=$world/$1.$2.$3 code=0 start=$SECONDS report
  UPCYCLE_TEST_STOP=$2:$3 timeout -k 1 150 mpirun --quiet --oversubscribe --bind-to none -n "$1" "$hooked" train "$world/run.json" \
    --parallel.ep=2 --parallel.timeout_s=$timeout --checkpoint.dir="$run" --checkpoint.every=2 --train.eval_every=3 --train.eval_steps=1 \
    --data.valid="$world/text" >"$run.log" 2>&1 || code=$?
  local took=$((SECONDS - start)) said
  said=$(grep -m 1 '^upcycle: rank ' "$run.log") || true
  report=$run/timeout_report.txt
  [[ -e $report ]] || report=$run.log  # before there is a folder
  if ((code == 0 || code == 124 || took > 90)) ||
    ! grep -qE "rank $2 (on [^ ]+ did not arrive.*timeout_s = $timeout\)|of this host stopped \(state T)" <<<"$said" ||
    ! grep -qE "^rank $2 on [^ ]+: process [0-9]+ stopped \(state T.*[ ;]$3, for " "$report" ||
    (($(grep -cE '^  upcycle::(TransferQueue::finish|make_mpi_communicator)\(.* in ' "$report") < $1 - 1)); then
    tail -n 30 "$run.log" >&2
    [[ -e $run/timeout_report.txt ]] && cat "$report" >&2
    echo "FAILED: rank $2 of $1 stopped while $3: exit code $code after $took s"
    return 1
  fi
  echo "rank $2 of $1 stopped while $3: ended with $code after $took s: ${said#upcycle: }"
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
echo "${#cases[@]} runs, each ended with the name of the rank that stopped"
