#!/usr/bin/env bash
# launch/check.sh: which tests it selects for a file, and its exit code. check_script_test.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export UPCYCLE_BUILD=${1:-build/release}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# expect CODE REGEX ARGUMENT...: the exit code, and one of the lines that are printed.
expect() {
  local code=0
  ./launch/check.sh "${@:3}" >"$scratch/out" 2>&1 </dev/null || code=$?
  if [[ $code != "$1" ]] || ! grep -qE "$2" "$scratch/out"; then
    cat "$scratch/out"
    echo "FAILED: check.sh ${*:3}: exit code $code, expected $1 and a line '$2'"
    exit 1
  fi
}
lists() { expect 0 "^$2" --list "$1"; }  # FILE REGEX

# Tests named after the file, its first words or its folder; with a suite of its name; that mention its name; all.
lists core/tensor.h 'test_core --gtest_filter=Tensor\.\*:\*/Tensor\.\*-Full\*$'
lists kernels/cpu/attention_tiles.h 'test_kernels --gtest_filter=AttentionTest\.\*:\*/AttentionTest\.\*-Full\*$'
lists core/config/parse.cpp 'test_core --gtest_filter=CheckData\..*:ConfigParse\..*-Full\*$'
lists launch/train.cpp 'test_cli --gtest_filter=.*:Train\..*-Full\*$'
lists kernels/cpu/gather_rows.cpp 'test_kernels --gtest_filter=RowsTest\..*-Full\*$'
lists kernels/ops.h 'test_kernels --gtest_filter=AttentionTest\..*:SwigluTest\..*-Full\*$'
# A test file selects itself; the model's files have more tests; scripts have scripts.
lists tests/comm/sum_in_order_test.cpp 'test_comm --gtest_filter=Sums\.\*:\*/Sums\.\*-Full\*$'
lists parallel/model/moe.cpp 'test_parity_mpi --gtest_filter=Layouts\..*-Full\*$'
lists parallel/model/moe.cpp 'test_train --gtest_filter=Golden\.\*:\*/Golden\.\*-Full\*$'
lists launch/test.sh 'tests/scripts/test_script_test.sh$'

expect 2 '^check.sh: core/none.cpp: found no such file, expected ' core/none.cpp
expect 2 '^check.sh: README.md: expected a file below core, ' README.md
expect 2 "^check.sh: found '', expected one file: " --list
expect 2 '^check.sh: launch/quickstart.sh: found no test of it ' launch/quickstart.sh

expect 0 '^check.sh: core/dtype.h: passed: built in [0-9.]+ s, run in [0-9.]+ s$' core/dtype.h
(cd core && UPCYCLE_BUILD=$UPCYCLE_BUILD ../launch/check.sh --list dtype.h >/dev/null)
UPCYCLE_TESTS_ROOT=$scratch expect 1 '^check.sh: tests/train/golden_test.cpp: FAILED: ' tests/train/golden_test.cpp
