#!/usr/bin/env bash
# Installs what is missing, builds and tests: launch/test.sh [--full]. --full also runs what takes longer: the tests
# labelled full, everything again under the address and undefined-behaviour sanitizers, and the checks that need Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

full=0
for arg in "$@"; do
  case "$arg" in
    --full) full=1 ;;
    *) echo "test.sh: unknown option $arg (known: --full)" >&2; exit 2 ;;
  esac
done

# Ranks share this machine's cores: no binding to single ones, no spinning threads; in a container root may start them.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

models=${UPCYCLE_REAL_MODELS:-../shared/models}
exclude=()
if [[ -d $models ]]; then
  UPCYCLE_REAL_MODELS=$(cd "$models" && pwd)
  export UPCYCLE_REAL_MODELS
elif [[ ${UPCYCLE_REQUIRE_REAL_MODELS:-0} == 1 ]]; then
  echo "test.sh: UPCYCLE_REQUIRE_REAL_MODELS is set, but there is no folder $models (set UPCYCLE_REAL_MODELS)" >&2
  exit 2
else
  echo "test.sh: no folder $models: the tests on real models are not run (set UPCYCLE_REAL_MODELS)"
  exclude+=(real_models)
fi

run_ctest() {  # preset, labels to exclude as one pattern, other options; ctest counts a test's PROCESSORS against -j
  local log=build/$1/test.log
  local -a label=()
  [[ -z $2 ]] || label=(-LE "$2")
  ctest --test-dir "build/$1" -j "$(nproc)" --output-on-failure --no-tests=error "${label[@]}" "${@:3}" </dev/null 2>&1 |
    tee "$log" | grep --line-buffered -v '^ *Start '
}

./launch/install.sh build test
# Without these the rest can still be tested; what is not is said at the end.
for group in nvtx cluster cuda cuda_tools; do
  ./launch/install.sh "$group" || echo "test.sh: goes on without the group $group" >&2
done
./launch/build.sh --werror
((full)) || exclude+=(full)
pattern=$(IFS='|'; echo "${exclude[*]-}")
status=0
run_ctest release "${pattern:+^($pattern)\$}" || status=$?
summary=$(grep -E 'tests passed' build/release/test.log || true)
not_run=$(grep '^not run: ' build/release/Testing/Temporary/LastTest.log | sort -u || true)
summary+=${not_run:+$'\n'$not_run}
grep -q 'NVTX: found' build/release/configure.log || summary+=$'\n'"not run: nvtx: NVTX's headers are missing (launch/install.sh nvtx)"
! grep -q 'CUDA headers: not found' build/release/configure.log ||
  summary+=$'\n'"not run: the CUDA backend's tests: its headers are missing (launch/install.sh cuda)"

# The CUDA backend as nvcc makes it, linked with CUDA's own libraries. No GPU is needed.
if [[ -x $(command -v nvcc || echo /usr/local/cuda/bin/nvcc) || -x build/deps/cuda/bin/nvcc ]]; then
  if ((status == 0)); then
    ./launch/build.sh --preset cuda --werror real_cuda
    run_ctest cuda '' -L real_cuda || status=$?
    summary+=$'\n'"for GPUs: $(grep -E 'tests passed' build/cuda/test.log || true)"
  fi
else
  summary+=$'\n'"not run: the code for GPUs: there is no nvcc (launch/install.sh cuda)"
fi

if ((full && status == 0)); then
  ./launch/build.sh --preset asan --werror
  # Open MPI and its plugins keep memory to the end on purpose.
  pattern=$(IFS='|'; echo "${exclude[*]+${exclude[*]}|}full")
  ASAN_OPTIONS=detect_leaks=0 run_ctest asan "^($pattern)\$" || status=$?
  summary+=$'\n'"sanitizers: $(grep -E 'tests passed' build/asan/test.log || true)"
  if ((status == 0)); then
    ./tests/scripts/run_python_checks.sh || status=$?
    summary+=$'\n'"checks against transformers: $( ((status)) && echo FAILED || echo passed)"
  fi
fi
echo "${summary:-test.sh: ctest ran no test}"
exit "$status"
