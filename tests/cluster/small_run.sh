# A model that four ranks train in a second, for the scripts in this folder to source: $work/run.json, its token set and
# what is the same in every run of it.

make_small_run() {  # upcycle binary, folder, steps
  local i
  for ((i = 0; i < 150; i++)); do
    echo "The $( ((i % 3)) && echo cat || echo dog) sat on the $( ((i % 5)) && echo mat || echo roof) for $((i % 7)) hours."
  done >"$2/text.txt"
  "$1" tokenize --tokenizer=bytes --output="$2/text" "$2/text.txt" 2>"$2/tokenize.log" || return
  cat >"$2/run.json" <<X
{ "dtype": "fp32",
  "model": { "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 258, "max_position_embeddings": 128,
             "num_local_experts": 4, "num_experts_per_tok": 2 },
  "data": { "train": "$2/text" },
  "train": { "steps": $3, "seq_length": 32, "micro_batch_size": 1, "global_batch_size": 8, "lr": 0.01, "min_lr": 0.001 } }
X
}

# What two runs of one layout must have in common, to the bit: each step's numbers except its times (the last line of a
# step counts: steps repeated after a death occur twice), and the sums of the newest checkpoint's files.
losses() { jq -s -c '[.[] | select(.loss)] | group_by(.step) | .[] | last | del(.tokens_per_s, .mfu, .step_ms, .ranks_ms)' "$1/metrics.jsonl"; }
sums() { jq -c '.files[] | [.name, .hash]' "$1/$(head -n 1 "$1/latest")/manifest.json"; }

expect_same_run() {  # folder folder steps
  local found
  found=$(losses "$1" | wc -l)
  if [[ $found != "$3" ]]; then
    echo "FAILED: $1 has $found steps, expected $3"
    return 1
  fi
  diff <(losses "$1") <(losses "$2") >&2 || { echo "FAILED: the losses of $1 and $2 differ"; return 1; }
  diff <(sums "$1") <(sums "$2") >&2 || { echo "FAILED: the checkpoints of $1 and $2 differ"; return 1; }
}

# What two runs of different layouts must have in common: each step's loss but for rounding. Prints by how much one is
# apart at most, relative; fails above 1e-4, or where one run has a step that the other has not.
losses_apart() {  # folder folder
  paste -d' ' <(losses "$1" | jq -r '[.step, .loss] | join(" ")') <(losses "$2" | jq -r '[.step, .loss] | join(" ")') |
    awk 'NF != 4 || $1 != $3 { bad = 1; exit } { d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > most) most = d }
         END { printf "%.1e", most; exit bad || most > 1e-4 }'
}

logged() {  # command...: its output is shown only when it fails
  local log
  log=$(mktemp -p "$world")
  "$@" >"$log" 2>&1 || { local code=$?; cat "$log" >&2; return "$code"; }
}
