#!/bin/bash
# overlap.sh UPCYCLE [RATE [CONFIG [OVERRIDE ...]]]: whether cutting the dispatch in chunks hides its transfers. The median
# step of `upcycle bench step` with an expert-parallel rank on each of two virtual hosts whose link carries RATE (default
# 1gbit), for 1, 2 and 4 chunks. A measurement, no test: wants an idle machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/hosts.sh"
need mpirun jq tc
enter_world "$@"

upcycle=$1 link=${2:-1gbit} config=${3:-$here/../../launch/configs/bench_moe.json}
shift $(($# < 3 ? $# : 3))
mpi_environment
add_host 1
add_host 2
rate vh2 "$link"
printf '%s between two hosts, one rank each, %s\n%-8s %10s %12s %12s %14s\n' "$link" "$(basename "$config")" \
  chunks "step ms" "best ms" "tokens/s" "waiting"
for chunks in 1 2 4; do
  mpirun -H vh1:1,vh2:1 -n 2 "$upcycle" bench step "$config" --json --parallel.ep=2 \
    --parallel.dispatch_chunks="$chunks" "$@" >"$world/$chunks.json"
  jq -r --arg chunks "$chunks" '[$chunks, .step_ms, .best_step_ms, .tokens_per_s, 100 * .comm_share] | @tsv' \
    "$world/$chunks.json" | awk '{ printf "%-8s %10.1f %12.1f %12.0f %12.1f %%\n", $1, $2, $3, $4, $5 }'
done
