#!/bin/bash
# slow_rank.sh UPCYCLE_HOOKED: a rank whose steps take longer than the others' is named, with its host, on the console and in
# metrics.jsonl, whether it works longer or is stopped again and again; of even ranks, and of those that take turns in
# being interrupted, none is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../cluster/small_run.sh"
hooked=$(readlink -f "$1")
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
make_small_run "$hooked" "$world" 24
# Each rank's forward takes 60 ms more than it computes: what shared cores take from one or the other is less.
even=-1:forward:60

run() {  # name delays: 24 steps on four ranks, two looks
  UPCYCLE_TEST_DELAY=$2 mpirun --quiet --oversubscribe --bind-to none -n 4 "$hooked" train "$world/run.json" --parallel.ep=2 \
    --train.global_batch_size=4 --train.straggler_every=12 --checkpoint.dir="$world/$1" >"$world/$1.log" 2>&1 ||
    { cat "$world/$1.log"; return 1; }
}
looks() { jq -s -c "[.[].ranks_ms | values | $2]" "$world/$1/metrics.jsonl"; }  # run, what of each look

expect() {  # run, ranks named at each look, ranks on the console
  local said found
  found=$(looks "$1" '[.slow[].rank]')
  said=$(sed -n 's/.* rank \([0-9]*\) on \([^ ]*\) is slow: .*/\1 on \2/p' "$world/$1.log" | sort -u | tr '\n' ';')
  if [[ $found != "$2" || $said != "$3" ]]; then
    grep -v '^step.*loss' "$world/$1.log" | tail -n 20 >&2
    looks "$1" . >&2
    echo "FAILED: $1: found $found and '$said', expected $2 and '$3'"
    return 1
  fi
  echo "$1: $found named, median and longest $(looks "$1" '[.median, .longest] | map(round)') ms; $(grep -m 1 'is slow' "$world/$1.log" || echo "no line")"
}

pulses() {  # name ranks: they stop in turn, for as long as two steps, and go on for a quarter of one, until the run is over
  local processes=() process rank tries
  for ((tries = 0; tries < 3000; tries++)); do
    [[ -s $world/$1/metrics.jsonl ]] && break
    sleep 0.1
  done
  for rank in $2; do
    for process in $(pgrep -f "checkpoint.dir=$world/$1( |\$)"); do
      grep -qz "^OMPI_COMM_WORLD_RANK=$rank$" "/proc/$process/environ" 2>/dev/null && processes+=("$process") && break
    done
  done
  ((${#processes[@]} > 0)) || return 1
  while true; do
    for process in "${processes[@]}"; do
      kill -STOP "$process" 2>/dev/null || return 0
      sleep "$two"
      kill -CONT "$process" 2>/dev/null || return 0
      sleep "$quarter"
    done
  done
}

run even $even
expect even '[[],[]]' ''
# By what a step takes here, where much else may run, later perhaps more.
step=$(looks even .median | jq 'max')
more=$(jq -n "$step * 4 | round") two=$(jq -n "$step * 2 / 1000") quarter=$(jq -n "$step / 4000")
for rank in 0 2; do
  run slow$rank $even,$rank:backward:$more
  expect slow$rank "[[$rank],[$rank]]" "$rank on $(hostname);"
done
run stopped $even &
job=$!
pulses stopped 1
wait "$job"
expect stopped '[[1],[1]]' "1 on $(hostname);"
run turns $even &
job=$!
pulses turns "0 1 2 3"
wait "$job"
expect turns '[[],[]]' ''
