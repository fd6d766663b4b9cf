#!/usr/bin/env bash
# Every command of CONTRIBUTING.md runs, and every path that it names is there: contributing_test.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD build=$(realpath "${1:-build/release}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export UPCYCLE_BUILD=$build OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
upcycle() { "$build/upcycle" "$@"; }

# Backquoted names of files and folders; those with capitals are placeholders, but for the documents.
failed=0
while read -r path; do
  [[ -e $path ]] || { echo "CONTRIBUTING.md: found no $path"; failed=1; }
done < <(grep -oE '`[^` ]+`' CONTRIBUTING.md | tr -d '`' | grep -E '/|\.' |
  grep -vE '(^|/)[A-Z]+(_[a-z]+)?\.(cpp|cu)$' | sort -u)

cat >"$scratch/run.json" <<'JSON'
{ "dtype": "fp32", "data": { "train": "text" },
  "model": { "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 258 },
  "train": { "steps": 1, "seq_length": 16, "global_batch_size": 2 } }
JSON
seq 1 200 >"$scratch/text.txt"
(cd "$scratch" && upcycle tokenize --tokenizer bytes --output text text.txt) 2>"$scratch/log"

while read -r command; do
  case "$command" in
    ./launch/build.sh*) continue ;;              # what launch/test.sh begins with
    ./launch/test.sh*) command+=' --list' ;;     # what runs this: its options are known
    ./launch/check.sh*) ;;
    upcycle*) cd "$scratch" ;;
    *) echo "CONTRIBUTING.md: no test runs '$command'"; failed=1; continue ;;
  esac
  eval "$command" >"$scratch/log" 2>&1 </dev/null || { cat "$scratch/log"; echo "CONTRIBUTING.md: '$command' failed"; failed=1; }
  cd "$root"
done < <(sed -nE 's/^    ([^ ].*)/\1/p' CONTRIBUTING.md | sed -E 's/ +#.*//')
exit "$failed"
