#!/usr/bin/env bash
# Configures and builds: launch/build.sh [--preset NAME] [--march NAME] [--werror] [--cuda-beside] [target ...]
# (default: release, everything). --march: the oldest processor that the program is for, as gcc names it, e.g. x86-64-v3
# (default: this machine's); a build folder keeps it. --cuda-beside: see UPCYCLE_CUDA_BESIDE in CMakeLists.txt; it adds
# the target real_cuda.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=release
options=()
targets=()
while (($#)); do
  case "$1" in
    --preset) preset=${2:?--preset needs a name}; shift ;;
    --march) options+=(-DUPCYCLE_MARCH="${2:?--march needs a name}"); shift ;;
    --werror) options+=(-DUPCYCLE_WERROR=ON) ;;
    --cuda-beside) options+=(-DUPCYCLE_CUDA_BESIDE=ON) ;;
    -*) echo "build.sh: unknown option $1" >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done

# Without this ccache does not cache anything that uses precompiled headers.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}

mkdir -p "build/$preset"
log=build/$preset/configure.log
if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
if [[ -t 1 ]]; then
  exec ninja -C "build/$preset" --quiet "${targets[@]}"
fi
# Not a terminal: print progress only now and then, and everything else.
NINJA_STATUS='[%f/%t %es] ' ninja -C "build/$preset" "${targets[@]}" |
  awk '/^ninja: (Entering directory|no work to do)/ { next }
       /^\[[0-9]+\/[0-9]+ [0-9.]+s\] / { split($1, n, /[[\/]/); if (n[2] % 25 && n[2] + 0 != n[3] + 0) next }
       { print; fflush() }'
