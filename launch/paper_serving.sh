#!/bin/bash
# The serving figures of arXiv 2411.08968, predicted (launch/README.md, "Serving on paper"):
#   launch/paper_serving.sh           prints the tables
#   launch/paper_serving.sh --check   fails if the README's or the constants of machines/h100.json differ (a test runs this)
#   launch/paper_serving.sh --write   writes both
# UPCYCLE_BINARY names the binary, by default the release preset's.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export UPCYCLE_BINARY=${UPCYCLE_BINARY:-$root/build/release/upcycle}
export OMP_NUM_THREADS=16 # scratch is per thread
command -v python3 >/dev/null || { echo "not run: paper_serving.sh needs python3" >&2; exit 77; }
exec python3 "$root/launch/paper_serving.py" "$@"
