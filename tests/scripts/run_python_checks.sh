#!/usr/bin/env bash
# The checks that need Python with PyTorch and transformers: exported models load there, in lm-eval and in llama.cpp, and
# give equal logits.
# UPCYCLE_PYTHON names an interpreter that has them; otherwise a virtual environment is made in build/python
# (PyTorch's own packages are large; pip's PIP_EXTRA_INDEX_URL can name an index with CPU-only ones).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${UPCYCLE_PYTHON:-build/python/bin/python}
if [[ -z ${UPCYCLE_PYTHON:-} && ! -e build/python/complete ]]; then
  ./launch/install.sh test
  echo "run_python_checks.sh: making build/python with torch, transformers, lm-eval and llama.cpp (xllamacpp) (a few gigabytes, minutes)"
  rm -rf build/python
  python3 -m venv build/python
  build/python/bin/pip install --quiet torch 'transformers>=5' safetensors numpy sentencepiece 'lm-eval[hf]' gguf \
    xllamacpp </dev/null
  touch build/python/complete
fi

upcycle=build/release/upcycle
[[ -x $upcycle ]] || { echo "run_python_checks.sh: no $upcycle; run launch/build.sh first" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
quiet() { "$@" >"$scratch/log" 2>&1 || { tail -n 30 "$scratch/log" >&2; return 1; }; }

"$python" tests/scripts/check_tokenize_hf.py "$upcycle"
"$python" tests/scripts/tokenizers_agree.py "$upcycle" | grep -v ' s, '

"$python" tests/scripts/check_upcycled.py "$upcycle" "$@"

"$python" tests/scripts/check_goldens.py "$upcycle"

# Trained models: the quickstart's upcycled MoE and its dense twin.
quiet ./launch/quickstart.sh --smoke "$scratch/quickstart"
quiet "$upcycle" export "$scratch/quickstart/cpt" "$scratch/cpt_hf"
"$python" tests/scripts/check_export.py "$upcycle" "$scratch/cpt_hf"
"$python" tests/scripts/check_export.py "$upcycle" "$scratch/quickstart/moe_hf"
