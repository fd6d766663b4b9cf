#!/bin/bash
# scaling.sh UPCYCLE [CONFIG [OVERRIDE ...]]: tokens/s and the share of the step that ranks spend waiting for each other, of
# `upcycle bench step` on 1, 2 and 4 ranks of this machine, expert parallel and tensor parallel. A measurement, no test:
# wants an idle machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export UPCYCLE_BINARY=${1:?usage: scaling.sh UPCYCLE [CONFIG [OVERRIDE ...]]}
config=${2:-$here/../../launch/configs/bench_moe.json}
shift $(($# < 2 ? $# : 2))
printf '%s on %s cores\n%-6s %-14s %10s %12s %10s\n' "$(basename "$config")" "$(nproc)" ranks layout "step ms" "tokens/s" waiting
for run in "1 ep=1" "2 ep=2" "4 ep=4" "2 tp=2" "4 tp=2 ep=4"; do
  read -ra words <<<"$run"
  layout=("${words[@]:1}")
  "$here/../../launch/run_local.sh" -n "${words[0]}" bench step "$config" --json "${layout[@]/#/--parallel.}" "$@" |
    jq -r --arg ranks "${words[0]}" --arg layout "${layout[*]}" \
      '[$ranks, $layout, .step_ms, .tokens_per_s, 100 * .comm_share] | @tsv' |
    awk -F '\t' '{ printf "%-6s %-14s %10.1f %12.0f %8.1f %%\n", $1, $2, $3, $4, $5 }'
done
