#!/bin/bash
# many_ranks.sh UPCYCLE: 32 ranks on the cores there are train 10 steps, save, resume and train two more.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/small_run.sh"
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT

export UPCYCLE_BINARY=$1 OMP_NUM_THREADS=1
make_small_run "$1" "$world" 12
run() { logged "$here/../../launch/run_local.sh" -n 32 train "$world/run.json" --parallel.tp=2 --parallel.ep=16 \
  --model.num_local_experts=16 --train.global_batch_size=16 --checkpoint.dir="$world/run" "$@"; }
start=$SECONDS
run --train.steps=10
[[ $(head -n 1 "$world/run/latest") == step_00000010 ]] || { echo "FAILED: no checkpoint of step 10"; exit 1; }
[[ $(find "$world/run/step_00000010" -name 'model.rank*.h5' | wc -l) == 32 ]] || { echo "FAILED: not 32 shards"; exit 1; }
run
[[ $(head -n 1 "$world/run/latest") == step_00000012 ]] || { echo "FAILED: no checkpoint of step 12"; exit 1; }
[[ $(losses "$world/run" | jq -s -c 'map(.step)') == '[1,2,3,4,5,6,7,8,9,10,11,12]' && $(wc -l <"$world/run/metrics.jsonl") == 12 ]] ||
  { echo "FAILED: the steps are not 1 to 12, once each"; exit 1; }
echo "32 ranks: 10 steps, saved, resumed for 2 more, in $((SECONDS - start)) s"
