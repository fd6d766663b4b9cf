#!/usr/bin/env bash
# What moments in bf16 cost: bf16_moments.sh PROGRAM. stories260K is trained for 2,000 AdamW steps of 8,192 tokens on the
# studies' text, with fp32 moments and with bf16 ones, on three seeds: held-out losses of a seed differ by 0.005 at most.
# Exit code 77: what it needs is not here.
set -euo pipefail
program=$(realpath "$1")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
model=${UPCYCLE_REAL_MODELS:-$root/../shared/models}/stories260K
[[ -d $model/hf ]] || { echo "not run: no real model at $model (set UPCYCLE_REAL_MODELS)"; exit 77; }
for name in bible jq; do
  command -v "$name" >/dev/null || { echo "not run: no $name here (launch/install.sh quickstart)"; exit 77; }
done
export UPCYCLE_BINARY=$program OMP_WAIT_POLICY=passive
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$root/launch/study_text.sh" --tokenizer "$model/tok512.model" text >text.log 2>&1
"$program" import "$model/hf" start 2>import.log
cat >run.json <<EOF
{ "dtype": "bf16",
  "data": { "train": "text/new_train", "tokenizer": "text/tokenizer.model" },
  "train": { "steps": 2000, "seq_length": 256, "micro_batch_size": 32, "global_batch_size": 32, "lr": 1e-3, "min_lr": 1e-5,
             "schedule": "cosine", "warmup_steps": 50, "log_every": 500 } }
EOF
# loss_of SEED MOMENT_DTYPE
loss_of() {
  "$program" train run.json --init.load=start --data.seed="$1" --seed="$1" --train.moment_dtype="$2" --checkpoint.dir="run_$1_$2" 2>>train.log
  "$program" eval "run_$1_$2" --data text/new_valid --json 2>>eval.log | jq .loss
}
code=0
for seed in 1 2 3; do
  whole=$(loss_of $seed fp32) rounded=$(loss_of $seed bf16)
  echo "seed $seed: held-out loss $whole with fp32 moments, $rounded with bf16 ones"
  jq -en "($whole - $rounded) | fabs <= 0.005" >/dev/null || code=1
done
((code == 0)) || echo "bf16_moments.sh: they differ by more than 0.005" >&2
exit $code
