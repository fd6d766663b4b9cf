#!/bin/bash
# elastic.sh UPCYCLE [full]: run_local.sh with UPCYCLE_ELASTIC goes on with fewer ranks when one is lost. From the checkpoint on
# it is, to the bit, a run that was started there with the new layout; and its losses are, but for rounding, those of the
# run that nothing interrupted: the order of the data is the same. By default 4 ranks that share experts go on as 3 that
# each have all; full: 8 replicas as 6, 4 ranks as 3 and then as 2, where a rank stopped; and no fewer than allowed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../cluster/small_run.sh"
upcycle=$(readlink -f "$1")
export UPCYCLE_BINARY=$upcycle
run_local=$here/../../launch/run_local.sh
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
steps=30
make_small_run "$upcycle" "$world" $steps

rank_of() {  # run ranks: the process of its rank 1, where it has so many
  local process
  for process in $(pgrep -f "checkpoint.dir=$1\b"); do
    [[ $(readlink "/proc/$process/exe") == "$upcycle" ]] || continue
    grep -qz '^OMPI_COMM_WORLD_RANK=1$' "/proc/$process/environ" 2>/dev/null &&
      grep -qz "^OMPI_COMM_WORLD_SIZE=$2$" "/proc/$process/environ" && echo "$process" && return
  done
  return 1
}

lose_a_rank() {  # run ranks signal: once it has saved a step more
  local tries process='' before
  before=$(cat "$1/latest" 2>/dev/null) || true
  for ((tries = 0; tries < 6000; tries++)); do
    [[ -n $process ]] || process=$(rank_of "$1" "$2") || true
    [[ -n $process && $(cat "$1/latest" 2>/dev/null) != "$before" ]] && kill -"$3" "$process" && return
    sleep 0.01
  done
  echo "FAILED: found no rank to lose"
  return 1
}

goes_on() {  # name signal fewest ranks,... override...: each number of ranks but the last loses one of them
  local name=$1 signal=$2 fewest=$3 from layout ranks code=0 i
  local -a counts=(${4//,/ })
  shift 4
  # Saved so often that the run can not end before a rank is lost.
  local -a train=(train "$world/run.json" --model.num_hidden_layers=1 --train.global_batch_size=12 --checkpoint.every=2
    --checkpoint.keep=100 "$@")
  logged "$run_local" -n "${counts[0]}" "${train[@]}" --checkpoint.dir="$world/$name.whole"
  UPCYCLE_ELASTIC=$fewest "$run_local" -n "${counts[0]}" "${train[@]}" --checkpoint.dir="$world/$name" >"$world/$name.log" 2>&1 &
  local job=$!
  for ((i = 0; i + 1 < ${#counts[@]}; i++)); do lose_a_rank "$world/$name" "${counts[i]}" "$signal" || break; done
  wait $job || code=$?
  for ((i = 0; i + 1 < ${#counts[@]}; i++)); do
    grep -qF "going on with ${counts[i + 1]} of ${counts[i]} ranks, " "$world/$name.log" || code+=", did not go on with ${counts[i + 1]}"
  done
  if [[ $code != 0 ]]; then
    grep -v '^step.*loss' "$world/$name.log" >&2
    echo "FAILED: $name: exit code $code"
    return 1
  fi
  from=$(sed -n "s|.*resumed $world/$name/\(step_[0-9]*\) .*|\1|p" "$world/$name.log" | tail -n 1)
  layout=$(sed -n 's/.*going on with [0-9]* of [0-9]* ranks, \(--.*\), from the.*/\1/p' "$world/$name.log" | tail -n 1)
  ranks=${counts[-1]}
  # The same from there, uninterrupted.
  mkdir "$world/$name.same"
  cp -r "$world/$name/$from" "$world/$name.same"
  cp "$world/$name/run.json" "$world/$name.same"
  printf '%s\n' "$from" >"$world/$name.same/latest"
  logged "$run_local" -n "$ranks" "${train[@]}" $layout --checkpoint.dir="$world/$name.same"
  local after=$((10#${from#step_}))
  losses "$world/$name" | jq -c "select(.step > $after)" >"$world/a"
  losses "$world/$name.same" >"$world/b"
  diff "$world/a" "$world/b" >&2 || { echo "FAILED: $name: not the run from $from with the new layout"; return 1; }
  diff <(sums "$world/$name") <(sums "$world/$name.same") >&2 || { echo "FAILED: $name: the checkpoints differ"; return 1; }
  # Beside the run of all ranks.
  local apart
  [[ $(losses "$world/$name" | wc -l) == "$steps" ]] || { echo "FAILED: $name: expected $steps steps"; return 1; }
  apart=$(losses_apart "$world/$name" "$world/$name.whole") || { echo "FAILED: $name: losses differ by $apart from the whole run's"; return 1; }
  echo "$name: after $from went on with $ranks ranks, $layout; $((steps - after)) steps the same to the bit, losses within $apart of the whole run's"
}

if [[ ${2:-} == full ]]; then
  goes_on replicas KILL 6 8,6 --parallel.ep=2 --train.global_batch_size=24
  goes_on experts KILL 2 4,3,2 --parallel.ep=4
  goes_on stopped STOP 1 2,1 --parallel.tp=2 --parallel.ep=2 --parallel.timeout_s=10
  # Not below what is allowed, nor where the run was asked to end.
  UPCYCLE_ELASTIC=4 "$run_local" -n 4 train "$world/run.json" --parallel.ep=4 --checkpoint.every=5 --checkpoint.dir="$world/none" \
    --train.steps=100000 >"$world/none.log" 2>&1 &
  job=$! code=0
  lose_a_rank "$world/none" 4 KILL
  wait $job || code=$?
  ((code == 137)) && grep -q "2 of the 3 ranks that are left fit this run, UPCYCLE_ELASTIC asks for 4 at least" "$world/none.log" ||
    { cat "$world/none.log"; echo "FAILED: exit code $code, expected 137 and a line about UPCYCLE_ELASTIC"; exit 1; }
  UPCYCLE_ELASTIC=1 "$run_local" -n 4 train "$world/run.json" --parallel.ep=4 --checkpoint.dir="$world/none" --train.steps=100000 \
    >"$world/none.log" 2>&1 &
  job=$! code=0
  sleep 1
  kill -TERM $job
  wait $job || code=$?
  ((code == 3)) && ! grep -q "going on" "$world/none.log" || { cat "$world/none.log"; echo "FAILED: exit code $code, expected 3"; exit 1; }
else
  goes_on experts KILL 3 4,3 --parallel.ep=4
fi

for bad in UPCYCLE_ELASTIC=all UPCYCLE_ELASTIC=0 UPCYCLE_MAX_RESTARTS=-1; do
  code=0
  env "$bad" "$run_local" -n 2 train "$world/run.json" >"$world/refused" 2>&1 || code=$?
  ((code == 2)) && [[ $(wc -l <"$world/refused") == 1 ]] && grep -q "${bad%=*}: found '${bad#*=}', expected" "$world/refused" ||
    { cat "$world/refused"; echo "FAILED: $bad: exit code $code, expected 2 and one line"; exit 1; }
done
