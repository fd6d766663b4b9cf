#!/usr/bin/env bash
# Gives our parsers inputs that libFuzzer makes, under the address and undefined-behaviour sanitizers:
# tests/fuzz/run.sh [--runs N] [--seconds N] [NAME ...]; NAME: a file of tests/fuzz, all by default, as many at once as there
# are cores.
# It starts from tests/fuzz/corpus/NAME and from what earlier calls found worth keeping (build/fuzz/corpus/NAME). An input
# that ends a parser in anything but a result or a one-line error, takes ten seconds, or has it allocate 256 MB at once,
# is left in build/fuzz/found: mend the parser and keep the input in tests/fuzz/corpus/NAME. Exit code 1 if there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs=100000 seconds=0 names=()
while (($#)); do
  case "$1" in
    --runs) runs=${2:?--runs needs a number}; shift ;;
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    -*) echo "run.sh: unknown option $1" >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done
mapfile -t all < <(sed -nE 's/^upcycle_fuzz\((\w+) .*/\1/p' tests/fuzz/programs.cmake)
((${#names[@]})) || names=("${all[@]}")
for name in "${names[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] || { echo "run.sh: no target $name (known: ${all[*]})" >&2; exit 2; }
done

./launch/install.sh fuzz || exit 77
./launch/build.sh --preset fuzz "${names[@]/#/fuzz_}"
mkdir -p build/fuzz/found
# The library sentencepiece reads unaligned numbers and frees nothing of its flags.
export ASAN_OPTIONS=detect_leaks=0:malloc_context_size=5 UBSAN_OPTIONS=print_stacktrace=1
# Files that a target writes, in memory where there is such a folder.
[[ ! -w /dev/shm ]] || export TMPDIR=/dev/shm
export runs seconds
one() {  # name; the flags beside ours: what makes libFuzzer itself slower than these parsers
  local name=$1 log=build/fuzz/$1.log code=0 executions
  mkdir -p "build/fuzz/corpus/$name"
  "build/fuzz/fuzz_$name" -runs="$runs" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -malloc_limit_mb=256 -entropic=0 -reduce_inputs=0 -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" \
    "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1 </dev/null || code=$?
  executions=$(sed -nE 's/^stat::number_of_executed_units: *//p' "$log")
  if ((code == 0)); then
    echo "$name: $executions executions, nothing found"
  else
    echo "$name: FOUND something after ${executions:-an unknown number of} executions: see $log"
    return 1
  fi
}
export -f one
printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} bash -c 'one {}' || exit 1
