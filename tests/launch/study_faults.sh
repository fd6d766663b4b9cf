#!/bin/bash
# study_faults.sh UPCYCLE: launch/configs/study_smoke.json on this source tree's own text, with an arm that diverges, twice:
# once undisturbed; once with the driver killed at ten random moments and, once, a full disk. Both end with the same
# report but for times, and with all that ended before a fault trained only once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(readlink -f "$1")

not_run() {
  echo "not run: study_faults: $*"
  exit 77  # ctest: skipped
}
if [[ -z ${faults_work:-} ]]; then
  command -v jq >/dev/null || not_run "there is no jq"
  ((EUID == 0)) && unshare --mount true 2>/dev/null || not_run "a disk of its own needs root and namespaces"
  faults_work=$(mktemp -d)
  export faults_work
  trap 'rm -rf "$faults_work"' EXIT
  setpriv --pdeathsig KILL unshare --mount --propagation private bash "$0" "$binary"
  exit
fi
cd "$faults_work"
mkdir disk
mount -t tmpfs -o size=64m tmpfs disk

texts() { find "$root/$1" -name "$2" | LC_ALL=C sort; }  # each file is a document
mapfile -t old < <(texts parallel '*.cpp') && mapfile -t new < <(texts kernels '*.[ch]*')
tokenize() { "$binary" tokenize --tokenizer=bytes --output="$@" 2>>tokenize.log; }
tokenize old "${old[@]::30}" && tokenize old_valid "${old[@]:30:20}"
tokenize new "${new[@]::50}" && tokenize new_valid "${new[@]:50:25}"

# Serving is predicted: the same in both. The arm `broken` has a rate at which nothing can be learned.
study=("$binary" compare "$root/launch/configs/study_smoke.json" --data.tokenizer=
  --data.pretraining=old --data.continuation=new --data.valid='{"old": "old_valid", "new": "new_valid"}'
  --serving='{"machine": "'"$root"'/launch/machines/h100.json", "training_mfu": 0.4, "input_len": 32, "output_len": 8}'
  --arms.broken='{"from": "dense", "learning_rates": [1e6, 2e6, 4e6], "run": {"train": {"clip_grad": 1e30}}}')
export OMP_WAIT_POLICY=passive
fail() {
  echo "FAILED: $*"
  tail -n 30 ./*.log
  exit 1
}

SECONDS=0
code=0
"${study[@]}" --output=quiet 2>quiet.log || code=$?
[[ $code == 4 ]] || fail "the undisturbed study ended with $code, expected 4: an arm is broken"
quiet_seconds=$SECONDS

RANDOM=${UPCYCLE_FAULTS_SEED:-1}
for ((kill = 1; kill <= 10; kill++)); do
  "${study[@]}" --output=disk/out 2>>faults.log &
  driver=$!
  sleep "$((RANDOM % (quiet_seconds / 5 + 1))).$((RANDOM % 10))"
  kill -KILL "$driver" 2>/dev/null || true
  wait "$driver" 2>/dev/null || true
  echo "killed $kill: $(find disk/out/runs -name measures.json | wc -l) runs are done" | tee -a faults.log
done

rm -rf disk/out/runs/*-b1-upcycled*  # something must be left to do when the disk is full
"${study[@]}" --output=disk/out 2>disk.log &
driver=$!
until_there() {  # pattern: in disk.log, at most a minute
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    ! grep -q "$1" disk.log || return 0
    kill -0 "$driver" 2>/dev/null || break
    sleep 0.1
  done
  fail "no line $1 on a full disk"
}
until_there '^started'
head -c 100M /dev/zero >disk/filler 2>/dev/null || true
truncate -s -100K disk/filler  # room for what the driver notes down
until_there '^FAILED.*-\(cpt\|upcycled\)-'
rm disk/filler
code=0
wait "$driver" || code=$?
[[ $code == 4 ]] || fail "a full disk: the driver ended with $code, expected 4"
grep '^FAILED.*-\(cpt\|upcycled\)-' disk.log
jq -e '[.runs[] | select(.status == "failed" and .arm != "broken")] | length > 0' disk/out/report.json >/dev/null ||
  fail "the report does not name the run that the full disk ended"

code=0
"${study[@]}" --output=disk/out 2>>faults.log || code=$?
[[ $code == 4 ]] || fail "the last start ended with $code, expected 4"

# A run that went on past the full disk could not save its weights there (nor say so in its log, on that disk): what is
# measured of those is not in the report.
gaps=$(sed -n 's/^done  *\([^ ]*\) .*/\1/p' disk.log | jq -Rn '[inputs]')

# Without times, and without what names the folder.
same() {
  jq -S --argjson gaps "$gaps" "(.runs[] | select(.name as \$n | \$gaps | index(\$n))) |= del(.experts) | walk(if type == \"object\" then del(.wall_seconds, .device_seconds, .own_device_seconds, .tokens_per_second, .folder, .command) else . end)
    | del(.study.notes, .study.machine) | (.runs[].differences? |= del(.\"init.load\", .\"init.upcycle\"))
    | (.runs[].error |= sub(\"disk/out\"; \"quiet\"; \"g\"))" "$1/report.json"
}
same quiet >quiet.json && same disk/out >faults.json
diff quiet.json faults.json >&2 || fail "the reports differ"
[[ $(jq '[.runs[] | select(.arm == "broken" and .status == "failed")] | length' quiet.json) -ge 1 ]] ||
  fail "no run of the broken arm is reported"
echo "ten kills, a full disk, a diverging arm: the report of $(jq '.runs | length' quiet.json) runs is the undisturbed one's"
