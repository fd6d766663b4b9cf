#!/usr/bin/env bash
# Counts the test cases of a ctest run: count_tests.sh LAST_TEST_LOG CTEST_OUTPUT prints "PASSED FAILED SKIPPED".
# An entry of ctest that runs a gtest program counts as the cases that the program says it ran, any other as one. How an
# entry ended is told only by ctest's output: its log says "Passed" of what was skipped or could not start.
set -euo pipefail
awk '
  { gsub(/\033\[[0-9;]*m|\r/, "") }  # colours, which ranks under mpirun have
  # The log: of each entry, what a gtest program says at its end (several programs may run one after another).
  FNR == NR {
    if (match($0, /^[0-9]+\/[0-9]+ Test: /)) name = substr($0, RLENGTH + 1)
    else if (/^\[  PASSED  \] [0-9]+ tests?\./) said_passed[name] += $4
    else if (/^\[  FAILED  \] [0-9]+ tests?, listed below:/) said_failed[name] += $4
    else if (/^\[  SKIPPED \] [0-9]+ tests?, listed below:/) said_skipped[name] += $4
    else if (/^another rank failed /) elsewhere[name]++  # what rank 0 counts as passed
    next
  }
  match($0, /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /) {
    rest = substr($0, RLENGTH + 1)
    name = rest; sub(/ \.\.\.*.*/, "", name)
    p = said_passed[name] - elsewhere[name]; f = said_failed[name] + elsewhere[name]; s = said_skipped[name] + 0
    if (rest ~ /\*\*\*Skipped|\*\*\*Not Run \(Disabled\)/) skipped++
    else if (rest ~ /\.\.+ +Passed /) { passed += p + s ? p : 1; skipped += s }
    else { passed += p; skipped += s; failed += f ? f : 1 }
  }
  END { print passed + 0, failed + 0, skipped + 0 }' "$1" "$2"
