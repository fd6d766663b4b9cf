#!/usr/bin/env bash
# Installs what is missing, builds and tests: launch/test.sh [--full[=PART,...]] [--list]. --list says what each tier
# contains. The last line is "N passed, N failed, N skipped", test cases over all stages; the exit code is 0 if none
# failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all_parts=(sanitized gpus long asan tsan fuzz tidy transformers watching container)
parts=()
list=0
for arg in "$@"; do
  case "$arg" in
    --full) parts=("${all_parts[@]}") ;;
    --full=*) IFS=, read -ra parts <<<"${arg#--full=}" ;;
    --list) list=1 ;;
    *) echo "test.sh: unknown option $arg (known: --full[=PART,...], --list)" >&2; exit 2 ;;
  esac
done
for part in "${parts[@]+"${parts[@]}"}"; do
  [[ " ${all_parts[*]} " == *" $part "* ]] ||
    { echo "test.sh: --full: found '$part', known parts: ${all_parts[*]}" >&2; exit 2; }
done
with() { [[ " ${parts[*]-} " == *" $1 "* ]]; }

if ((list)); then
  entries() {  # preset, ctest's options
    local n=
    [[ ! -e build/$1/CTestTestfile.cmake ]] ||
      n=$(ctest --test-dir "build/$1" -N "${@:2}" 2>/dev/null </dev/null | sed -n 's/^Total Tests: //p')
    echo "${n:-not built yet}"
  }
  cat <<EOF
Entries of ctest (one under mpirun, or a stage of the emulated GPU, runs many test cases), as far as they are built:
ordinary tier: launch/test.sh
  tests         everything but the full tier: units, commands, ranks, clusters, the emulated GPU   $(entries release -LE '^full$')
                with nvcc also its code for sm_90: registers, spills, instructions, symbols; no GPU is needed
full tier: launch/test.sh --full, or parts of it: --full=PART,...
  sanitized     the emulated kernels' op tests under address, undefined-behaviour and thread sanitizers   $(entries release -L '^sanitized$')
  gpus          the preset cuda: the code for every architecture that it names, with nvcc; a GPU bundle in a bare root   $(entries cuda -L '^real_cuda$')
  long          tests labelled full: every layout, more seeds and schedules, each barrier dropped in turn   $(entries release -L '^full$' -LE '^sanitized$')
  asan          the ordinary tests, with everything under the address and undefined-behaviour sanitizers   $(entries asan -LE '^full$')
  tsan          what has threads under the thread sanitizer: checkpoint writer, transfers, readers of data, serving   $(entries tsan)
  fuzz          100,000 inputs that libFuzzer makes for each parser of files from elsewhere (clang; tests/fuzz/run.sh)   1
  tidy          clang-tidy with the checks of .clang-tidy over all sources but the tests   1
  transformers  exported models against transformers (Python)   1
  watching      event files in the package tensorboard, traces in Perfetto in headless Chromium (Python)   1
  container     the steps of the Dockerfile in a bare Debian 12 of its own   1
EOF
  exit 0
fi

passed=0 failed=0 skipped=0 status=0 summary=
finish() {  # the last line, however this script ends
  local code=$1
  ((code != 0)) || code=$status
  ((code == 0 || failed > 0)) || failed=1  # a build or an installation counts as one test
  echo "${summary:+${summary#$'\n'}$'\n'}$passed passed, $failed failed, $skipped skipped"
  exit "$code"
}
trap 'finish $?' EXIT
note() { summary+=$'\n'$1; }

# Ranks share this machine's cores: no binding to single ones, no spinning threads; in a container root may start them.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

models=${UPCYCLE_REAL_MODELS:-../shared/models}
if [[ -d $models ]]; then
  UPCYCLE_REAL_MODELS=$(cd "$models" && pwd)
  export UPCYCLE_REAL_MODELS
elif [[ ${UPCYCLE_REQUIRE_REAL_MODELS:-0} == 1 ]]; then
  echo "test.sh: UPCYCLE_REQUIRE_REAL_MODELS is set, but there is no folder $models (set UPCYCLE_REAL_MODELS)" >&2
  exit 2
else
  echo "test.sh: no folder $models: the tests on real models are skipped (set UPCYCLE_REAL_MODELS)"
fi

# stage NAME PRESET CTEST_OPTION...: runs tests of build/PRESET and counts them; a test's PROCESSORS count against ctest's -j.
stage() {
  local name=$1 preset=$2 log=build/$2/test.log last=build/$2/Testing/Temporary/LastTest.log ended=0 p f s
  echo "== $name"
  rm -f "$last"
  ctest --test-dir "build/$preset" -j "$(nproc)" --output-on-failure --no-tests=error "${@:3}" </dev/null 2>&1 |
    tee "$log" | grep --line-buffered -v '^ *Start ' || ended=$?
  touch "$last"
  read -r p f s < <(tests/scripts/count_tests.sh "$last" "$log")
  ((ended == 0 || f > 0)) || f=1  # ctest itself failed, or found no test
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  ((ended == 0)) || status=$ended
  note "$name: $p passed, $f failed, $s skipped"
  note "$(grep '^not run: ' "$last" | sort -u)"
  summary=${summary%$'\n'}
}

./launch/install.sh build test
# Without these the rest can still be tested; the summary says what was not.
for group in tokenizer_json nvtx cluster cuda cuda_tools; do
  ./launch/install.sh "$group" || echo "test.sh: goes on without the group $group" >&2
done
# With nvcc also build the real CUDA backend, linked with CUDA's own libraries. No GPU is needed.
nvcc=
if [[ -x $(command -v nvcc || echo /usr/local/cuda/bin/nvcc) || -x build/deps/cuda/bin/nvcc ]]; then
  nvcc=1
  ./launch/build.sh --werror --cuda-beside all real_cuda
else
  ./launch/build.sh --werror
  note "not run: the code for GPUs: there is no nvcc (launch/install.sh cuda)"
fi
stage "tests" release -LE '^full$'
grep -q 'NVTX: found' build/release/configure.log || note "not run: nvtx: NVTX's headers are missing (launch/install.sh nvtx)"
! grep -q 'CUDA headers: not found' build/release/configure.log ||
  note "not run: the CUDA backend's tests: its headers are missing (launch/install.sh cuda)"

if ((status == 0)) && with gpus && [[ -n $nvcc ]]; then
  ./launch/build.sh --preset cuda --werror real_cuda
  stage "gpus" cuda -L '^real_cuda$'
fi
if ((status == 0)) && { with sanitized || with long; }; then
  ./launch/build.sh --werror all full_tests
fi
if ((status == 0)) && with sanitized; then
  stage "sanitized" release -L '^sanitized$'
fi
if ((status == 0)) && with long; then
  stage "long" release -L '^full$' -LE '^sanitized$'
fi
if ((status == 0)) && with asan; then
  ./launch/build.sh --preset asan --werror
  # Open MPI and its plugins deliberately do not free some memory.
  ASAN_OPTIONS=detect_leaks=0 stage "asan" asan -LE '^full$'
fi
if ((status == 0)) && with tsan; then
  ./launch/build.sh --preset tsan --werror thread_tests
  # One OpenMP thread, and nothing of libraries that are not built for the sanitizer: tests/CMakeLists.txt says why.
  OMP_NUM_THREADS=1 TSAN_OPTIONS="ignore_noninstrumented_modules=1 second_deadlock_stack=1" \
    stage "tsan" tsan
fi
# script NAME SCRIPT: a part that is a script, which counts as one test; 77 says that it could not run.
script() {
  local code=0
  echo "== $1"
  "$2" || code=$?
  case $code in
    0) passed=$((passed + 1)); note "$1: passed" ;;
    77) skipped=$((skipped + 1)); note "$1: skipped" ;;
    *) status=1 failed=$((failed + 1)); note "$1: FAILED" ;;
  esac
}
if ((status == 0)) && with fuzz; then
  script "fuzz" ./tests/fuzz/run.sh
fi
if ((status == 0)) && with tidy; then
  script "tidy" ./tests/scripts/tidy.sh
fi
if ((status == 0)) && with transformers; then
  script "transformers" ./tests/scripts/run_python_checks.sh
fi
if ((status == 0)) && with watching; then
  script "watching" ./tests/scripts/check_watching.sh
fi
if ((status == 0)) && with container; then
  script "container" ./tests/scripts/container_steps.sh
fi
