#!/usr/bin/env bash
# A whole study from text to report: study_test.sh PROGRAM smoke|own. smoke: study_smoke.json on the quickstart's text;
# own: the README's way from a Hugging Face model and two texts, with little of everything. Exit code 77: what it needs is
# not here.
set -euo pipefail
program=$(realpath "$1") way=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for name in spm_train bible jq; do
  command -v "$name" >/dev/null || { echo "not run: no $name here (launch/install.sh quickstart)"; exit 77; }
done
export UPCYCLE_BINARY=$program OMP_WAIT_POLICY=passive
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# expect REPORT JQ_CONDITION
expect() {
  jq -e "$2" "$1" >/dev/null || { echo "study_test.sh: $1: not so: $2" >&2; jq .verdict "$1" >&2; exit 1; }
}

"$root/launch/study_text.sh" runs/text
if [[ $way == smoke ]]; then
  "$program" compare "$root/launch/configs/study_smoke.json"
  report=runs/smoke/report.json
  expect $report '(.verdict | length) > 40'
  expect $report '[.runs[] | select(.status != "done")] == []'
  expect $report '[.runs[] | select(.result)] | length == 6'
  expect $report '[.comparisons[] | select(.set == "new") | .standard_error > 0] | all and length > 0'
  expect $report '.cloze.items == 1000 and ([.runs[] | select(.kind == "arm") | .cloze.new.accuracy] | min) > 0.25'
  expect $report '[.serving[].requests_per_second > 0] | all and length == 2'
  expect $report '[.break_even[].unit | test("timed while nothing else ran")] | all and length > 0'
  expect $report '[.runs[] | select(.arm == "upcycled") | .experts.weight_cosine[-1][0] < 1] | all'
  grep -q '<svg' runs/smoke/report.html
  [[ $(wc -l <runs/smoke/runs.csv) -gt 6 ]]
  # Again: nothing is left to do, and the report is the same.
  cp $report first.json
  "$program" compare "$root/launch/configs/study_smoke.json" >again.txt 2>&1
  grep -q ' 0 to do' again.txt
  cmp first.json $report
  "$program" plot runs/smoke/runs/*-b1-* --output plot.html
  grep -q '<svg' plot.html
  exit 0
fi

model=${UPCYCLE_REAL_MODELS:-$root/../shared/models}/stories260K
if [[ ! -d $model/hf ]]; then
  echo "not run: the README's way, without a Hugging Face model with a sentencepiece vocabulary at $model"
  exit 77
fi
head -n 9000 runs/text/text/bible.txt >old.txt
head -n 60000 runs/text/text/perl.txt >new.txt
"$root/launch/study_text.sh" --tokenizer "$model/tok512.model" runs/text old.txt new.txt
own=("$root/launch/configs/study_own.json" --sizes.own.load="$model/hf" '--continuation.tokens=[2e5]'
  '--arms.cpt.learning_rates=[1e-3]' '--arms.upcycled.learning_rates=[1e-3]' --continuation.run.train.warmup_steps=1
  --run.dtype=fp32 --cloze.context=16 --launch.at_once=2 --launch.threads=1)
"$program" plan "${own[@]}" | grep -q ' 4 runs'
"$program" compare "${own[@]}"
report=runs/own/report.json
expect $report '[.runs[] | select(.status != "done")] == [] and (.runs | length) == 4'
expect $report '.sweeps == [] and (.study.notes | map(select(test("not swept"))) | length > 0)'
expect $report '[.runs[].bits_per_byte.new > 0] | all'
