#!/bin/bash
# slurm_study.sh UPCYCLE: launch/study.sbatch, two array tasks on a host each, whose runs have two ranks each. One task is
# signalled as before a time limit: it saves, is requeued and goes on. Every run ends, and one report is written.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

text() {  # NAME FIRST LAST: a token set of these sentences, 20 in a document
  for ((i = $2; i < $3; i++)); do
    echo "The $( ((i % 3)) && echo cat || echo dog) sat on the $( ((i % 5)) && echo mat || echo roof) for $((i * i % 71)) hours."
    ((i % 20)) || echo "<|endoftext|>"
  done >"$world/$1.txt"
  logged "$UPCYCLE_BINARY" tokenize --tokenizer=bytes --doc-separator="<|endoftext|>" --output="$world/$1" "$world/$1.txt"
}
text train 0 1600
text valid 1600 2600
cat >"$world/study.json" <<X
{ "name": "slurm", "output": "$world/study",
  "data": { "pretraining": "$world/train", "continuation": "$world/train", "valid": { "text": "$world/valid" } },
  "run": { "dtype": "fp32", "train": { "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 8 } },
  "sizes": { "tiny": { "model": { "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 258, "max_position_embeddings": 128 } } },
  "pretraining": { "tokens_per_parameter": [2], "run": { "train": { "lr": 1e-2 } } },
  "continuation": { "budgets": [0.5, 1] },
  "arms": { "cpt": { "from": "dense", "learning_rates": [1e-2] },
            "upcycled": { "from": "upcycle", "learning_rates": [1e-2], "run": { "model": { "num_local_experts": 4 } } } },
  "seeds": 2, "cloze": { "items": 0 }, "launch": { "ranks": 2 } }
X
mpi_environment
add_host 1
add_host 2
start_slurm 2
id=$(sbatch --parsable --array=1-2 --nodes=1 --ntasks=2 --output="$world/job.%a.out" \
  "$here/../../launch/study.sbatch" "$world/study.json")
runs=$world/study/runs
at_work() { [[ -s $(find "$runs" -name metrics.jsonl -newer "$world/study.json" 2>/dev/null | head -n 1) ]]; }
wait_for 60 "first steps" at_work
first=$(grep -l '^started' "$world"/job.*.out | head -n 1 | sed 's/.*job[.]\(.\)[.]out/\1/')  # the other one waits
scancel --batch --signal=USR1 "${id}_$first"
again() { [[ $(job "${id}_$first" Restarts) == 1 ]]; }
wait_for 60 "restart of the task that was signalled" again
tasks_ended() { for task in 1 2; do [[ $(job "${id}_$task" JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT)$ ]] || return; done; }
wait_for 200 "end of the tasks" tasks_ended || { tail -n 30 "$world"/job.*.out; exit 1; }
for task in 1 2; do
  [[ $(job "${id}_$task" JobState) == COMPLETED ]] || { echo "FAILED: task $task"; cat "$world"/job.*.out; exit 1; }
done
grep -q "the driver ended with 3" "$world/job.$first.out" || { echo "FAILED: the signal did not reach the driver"; exit 1; }
report=$world/study/report.json
[[ $(jq '[.runs[] | select(.status == "done")] | length' "$report") == 9 ]] ||
  { echo "FAILED: not all runs are done"; jq -c '.runs[] | [.name, .status, .error]' "$report"; cat "$world"/job.*.out; exit 1; }
grep -qh "2 ranks" "$runs"/*/train.log || { echo "FAILED: the runs had one rank"; exit 1; }
echo "two tasks, one of them requeued: $(cat "$world"/job.*.out | grep -c '^started') starts of 9 runs, all done"
