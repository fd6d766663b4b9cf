#!/bin/bash
# The tables of `upcycle plan` in launch/README.md:
#   launch/plan_tables.sh           prints them
#   launch/plan_tables.sh --check   fails if the README's differ (a test runs this)
#   launch/plan_tables.sh --write   writes them into the README
# UPCYCLE_BINARY names the binary, by default the release preset's.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${UPCYCLE_BINARY:-$root/build/release/upcycle}
readme=$root/launch/README.md
begin='<!-- plan_tables.sh -->' end='<!-- end of plan_tables.sh -->'
export OMP_NUM_THREADS=16 # scratch is per thread

# row CONFIG RANKS TP EP ETP RECOMPUTE
row() {
  "$binary" plan "$root/launch/configs/$1.json" --row --memory=80GiB --world="$2" --parallel.tp="$3" \
    --parallel.ep="$4" --parallel.etp="$5" --train.recompute="$6" --checkpoint.every=1000
}

header() {
  echo
  echo "| ranks | layout | micro batch, recompute | parameters | gradients | optimizer | activations | dispatch | scratch | collectives | snapshot | total | fits 80 GiB | dispatch a step | fixed a step | PFLOPs a step | checkpoint |"
  echo "|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|"
}

tables() {
  echo "Llama-3-8B to 8 experts (\`configs/llama3_8b_moe.json\`: 128 sequences of 8,192 tokens a step):"
  header
  row llama3_8b_moe 16 8 2 8 full
  row llama3_8b_moe 16 4 4 4 full
  row llama3_8b_moe 32 8 4 8 none
  row llama3_8b_moe 32 8 4 8 full
  row llama3_8b_moe 32 8 8 1 full
  row llama3_8b_moe 64 8 8 8 none
  row llama3_8b_moe 64 8 8 8 full
  row llama3_8b_moe 64 2 8 2 full
  echo
  echo "A 70B to 8 experts (\`configs/llama_70b_moe.json\`: 256 sequences of 8,192 tokens a step):"
  header
  row llama_70b_moe 128 8 8 8 full
  row llama_70b_moe 128 8 4 8 full
  row llama_70b_moe 256 8 8 8 full
  row llama_70b_moe 256 8 4 8 full
}

case ${1:-} in
  "") tables ;;
  --check)
    if ! diff <(sed -n "/^$begin\$/,/^$end\$/p" "$readme" | sed '1d;$d') <(tables) >&2; then
      echo "launch/README.md: its tables differ from those of upcycle plan: run launch/plan_tables.sh --write" >&2
      exit 1
    fi
    ;;
  --write)
    new=$(mktemp)
    trap 'rm -f "$new"' EXIT
    sed "/^$begin\$/q" "$readme" >"$new"
    tables >>"$new"
    sed -n "/^$end\$/,\$p" "$readme" >>"$new"
    cp "$new" "$readme"
    ;;
  *)
    echo "usage: launch/plan_tables.sh [--check | --write]" >&2
    exit 2
    ;;
esac
