#!/usr/bin/env bash
# The one-file loop: launch/check.sh [--list] FILE builds and runs the tests of that file and prints how long both took.
# --list names them and runs nothing. Exit code 0: all passed, 1: not, 2: no such file, or nothing tests it.
#
# Tests mirror the tree, so they are searched in the folder of tests that mirrors the file's: those named after the file
# (shortened at its underscores until there is one: attention_tiles.h has attention_test.cpp), else those named after
# its folder, else those with a suite of its name, else those that mention it, else all. A test file is tested by
# itself. The model's files also get the goldens and, on two ranks, the parity of layouts.
set -euo pipefail
shopt -s nullglob
here=$PWD
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
build=${UPCYCLE_BUILD:-build/release}
fail() { echo "check.sh: $1" >&2; exit 2; }

list=
[[ ${1-} != --list ]] || { list=1; shift; }
[[ $# == 1 && $1 != -* ]] || fail "found '$*', expected one file: launch/check.sh [--list] FILE"
file=$1
[[ -f $file ]] || file=$here/$1  # relative to the caller's directory
[[ -f $file ]] || fail "$1: found no such file, expected a source, a script or a test of this project"
file=$(realpath -s --relative-to=. "$file")
folder=$(dirname "$file") stem=$(basename "${file%.*}")

case "$file" in
  tests/*) mirrors=("$folder") ;;
  kernels/cuda/*) mirrors=(tests/kernels tests/cuda_host) ;;
  core/* | kernels/* | data/*) mirrors=("tests/${file%%/*}") ;;
  parallel/comm/*nccl*) mirrors=(tests/cuda_host/comm) ;;
  launch/*) mirrors=(tests/launch tests/cli) ;;
  parallel/serve/*) mirrors=(tests/serve tests/cli) ;;
  parallel/*/*) room=${file#parallel/} room=${room%%/*} mirrors=("tests/$room" "tests/${room}_mpi") ;;
  *) fail "$1: expected a file below core, data, kernels, launch, parallel or tests" ;;
esac
all=()
for mirror in "${mirrors[@]}"; do all+=("$mirror"/*_test.cpp); done
everywhere=
((${#all[@]})) || { everywhere=1 all=(tests/*/*_test.cpp); }  # no folder mirrors it: search by name

chosen=()
named() {  # the tests named after $1, or else after its first words
  local test words=$1
  while ((${#chosen[@]} == 0)); do
    for test in "${all[@]}"; do
      [[ $(basename "$test") != "$words"_test.cpp && $(basename "$test") != "$words"_*_test.cpp ]] || chosen+=("$test")
    done
    [[ $words == *_* ]] || return 0
    words=${words%_*}
  done
}

scripts=()
case "$file" in
  tests/*_test.cpp) chosen=("$file") ;;
  tests/scripts/*.sh) scripts=("$file") ;;
  *.sh | *.py) scripts=(tests/scripts/"$stem"_*test.sh) ;;
  parallel/model/*) named "$stem"; chosen+=(tests/train/golden_test.cpp tests/parity_mpi/layouts_test.cpp) ;;
  *)
    named "$stem"
    ((${#chosen[@]})) || named "$(basename "$folder")"
    for pattern in "^TEST(_[FP])?\(${stem//_/}(Test)?," "\b${stem//_/_?}"; do
      ((${#chosen[@]} || ${#all[@]} == 0)) || mapfile -t chosen < <(grep -liE "$pattern" "${all[@]}")
    done
    ((${#chosen[@]} || ${#everywhere})) || chosen=("${all[@]}")
    ;;
esac
((${#scripts[@]} + ${#chosen[@]})) || fail "$file: found no test of it (scripts have theirs in tests/scripts/NAME_test.sh)"

# The programs that link the tests (from ninja), and their suites (from the sources). The emulated GPU backend has its
# own programs, which link the same tests.
root=$(pwd -P)
[[ -f $build/build.ninja ]] || cmake --preset "$(basename "$build")" >/dev/null
ninja -C "$build" build.ninja >/dev/null  # new files
outputs() { ninja -C "$build" -t query "$1" 2>/dev/null | sed -n '/^  outputs:/,$s/^    //p'; }
gpu='^$'
[[ $file != kernels/cuda/* && $file != tests/cuda_host/* && $file != *nccl* ]] || gpu=cuda_host
declare -A suites=()
for test in "${chosen[@]+"${chosen[@]}"}"; do
  programs=$(for object in $(outputs "$root/$test"); do outputs "$object"; done |
    grep -E '(^|/)test_[a-z_]+$' | grep -vE '_(files|asan|tsan)$' | sort -u || true)
  program=$(grep -E "$gpu" <<<"$programs" || grep -vE 'cuda_host|test_gpu' <<<"$programs" || echo "$programs")
  program=${program%%$'\n'*}
  [[ -n $program ]] || fail "$test: found no program that links it, expected one in $build; see tests/README.md"
  for suite in $(sed -nE 's/^(TEST|TEST_F|TEST_P|TYPED_TEST)\((\w+),.*/\2/p' "$test" | sort -u); do
    suites[$program]+=${suites[$program]+:}$suite.*:*/$suite.*
  done
done

if [[ -n $list ]]; then
  for program in "${!suites[@]}"; do echo "$(basename "$program") --gtest_filter=${suites[$program]}-Full*"; done | sort
  ((${#scripts[@]} == 0)) || printf '%s\n' "${scripts[@]}"
  exit 0
fi

seconds() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }
begin=$EPOCHREALTIME built= code=0
if ((${#suites[@]})); then
  ninja -C "$build" --quiet "${!suites[@]}" | sed '/^ninja: no work to do/d' || exit 1
  built="built in $(seconds "$begin"), "
  begin=$EPOCHREALTIME
fi
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1
((EUID != 0)) || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for program in "${!suites[@]}"; do
  run=("$build/$program" "--gtest_filter=${suites[$program]}-Full*" --gtest_brief=1)
  if ninja -C "$build" -t query "$program" | grep -q 'mpi_main'; then  # ranks: 2, or the fewest that ctest runs it on
    name=$(basename "$program")
    ranks=$(grep -rhoE --include=CTestTestfile.cmake "${name}_ranks[0-9]+" "$build/tests" | grep -oE '[0-9]+$' |
      sort -n | awk '$1 > 1 { print; exit }')
    run=(env OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" mpirun --bind-to none -n "${ranks:-2}" "${run[@]}")
  fi
  "${run[@]}" </dev/null || code=1
done
for script in "${scripts[@]+"${scripts[@]}"}"; do "$script" </dev/null || code=1; done
echo "check.sh: $file: $( ((code)) && echo FAILED || echo passed): ${built}run in $(seconds "$begin")"
exit "$code"
