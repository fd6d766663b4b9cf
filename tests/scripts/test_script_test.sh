#!/usr/bin/env bash
# launch/test.sh against a small project in the place of ours: its last line, its exit code, and how cases are counted.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{launch,tests/scripts,project,models}
cp "$root/launch/test.sh" "$scratch/launch/"
cp "$root/tests/scripts/count_tests.sh" "$scratch/tests/scripts/"
echo 'exit "${INSTALL_CODE:-0}"' >"$scratch/launch/install.sh"
cat >"$scratch/launch/build.sh" <<'EOF'
mkdir -p build/release
cmake -S project -B build/release >build/release/configure.log && exit "${BUILD_CODE:-0}"
EOF
chmod +x "$scratch"/launch/*.sh
export UPCYCLE_REAL_MODELS=$scratch/models

# expect CODE LAST_LINE ARGUMENT...: runs test.sh on the entries that standard input adds.
expect() {
  local code=0 last
  { printf 'cmake_minimum_required(VERSION 3.25)\nproject(small NONE)\nenable_testing()\n'; cat; } >"$scratch/project/CMakeLists.txt"
  rm -rf "$scratch/build"
  (cd / && "$scratch/launch/test.sh" "${@:3}") >"$scratch/out" 2>&1 || code=$?
  last=$(tail -n 1 "$scratch/out")
  if [[ $code != "$1" || $last != "$2" ]]; then
    cat "$scratch/out"
    echo "FAILED: test.sh ${*:3}: exit code $code and last line '$last', expected $1 and '$2'"
    exit 1
  fi
}

expect 0 "7 passed, 0 failed, 3 skipped" <<'EOF'
add_test(NAME plain COMMAND true)
# A whole program of gtest's, and one that a stage runs twice, once in colours.
add_test(NAME program COMMAND sh -c "seq 1 9999; echo '[  PASSED  ] 2 tests.'; echo '[  SKIPPED ] 1 test, listed below:'")
add_test(NAME twice COMMAND sh -c "printf '\\033[0;32m[  PASSED  ] \\033[m1 test.\\r\\n'; echo '[  PASSED  ] 2 tests.'")
add_test(NAME by_code COMMAND sh -c "echo 'not run: this and that'; exit 77")
add_test(NAME by_text COMMAND sh -c "echo '[  SKIPPED ] Suite.Case'; echo '[  PASSED  ] 0 tests.'; echo '[  SKIPPED ] 1 test, listed below:'")
set_tests_properties(by_code PROPERTIES SKIP_RETURN_CODE 77)
set_tests_properties(by_text PROPERTIES SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
add_test(NAME by_regex COMMAND sh -c "echo hello; exit 3")
set_tests_properties(by_regex PROPERTIES PASS_REGULAR_EXPRESSION hello)
add_test(NAME left_out COMMAND false)
set_tests_properties(left_out PROPERTIES LABELS full)
EOF
grep -qx 'not run: this and that' "$scratch/out"

expect 8 "7 passed, 7 failed, 0 skipped" <<'EOF'
add_test(NAME plain COMMAND true)
add_test(NAME fails COMMAND sh -c "echo '[  PASSED  ] 3 tests.'; echo '[  FAILED  ] 2 tests, listed below:'; exit 1")
add_test(NAME other_rank COMMAND sh -c "echo 'another rank failed Suite.Case'; echo '[  PASSED  ] 4 tests.'; exit 1")
add_test(NAME crashes COMMAND sh -c "kill -SEGV $$")
add_test(NAME hangs COMMAND sleep 30)
set_tests_properties(hangs PROPERTIES TIMEOUT 1)
add_test(NAME absent COMMAND /nonexistent/program)
add_test(NAME silent COMMAND sh -c "echo bye")
set_tests_properties(silent PROPERTIES PASS_REGULAR_EXPRESSION hello)
EOF

expect 0 "3 passed, 0 failed, 0 skipped" --full=sanitized,long <<'EOF'
add_test(NAME ordinary COMMAND true)
add_test(NAME one COMMAND true)
add_test(NAME other COMMAND true)
set_tests_properties(one PROPERTIES LABELS "full;sanitized")
set_tests_properties(other PROPERTIES LABELS full)
EOF
expect 8 "1 passed, 1 failed, 0 skipped" --full=long <<'EOF'
add_test(NAME ordinary COMMAND true)
add_test(NAME other COMMAND false)
set_tests_properties(other PROPERTIES LABELS full)
EOF

# Nothing ran: never a line that reads like success.
expect 8 "0 passed, 1 failed, 0 skipped" </dev/null
BUILD_CODE=3 expect 3 "0 passed, 1 failed, 0 skipped" <<<'add_test(NAME plain COMMAND true)'
INSTALL_CODE=4 expect 4 "0 passed, 1 failed, 0 skipped" <<<'add_test(NAME plain COMMAND true)'
expect 2 "test.sh: --full: found 'everything', known parts: sanitized gpus long asan tsan fuzz tidy transformers watching container" --full=everything </dev/null
expect 2 "test.sh: unknown option --fast (known: --full[=PART,...], --list)" --fast </dev/null
expect 0 "  container     the steps of the Dockerfile in a bare Debian 12 of its own   1" --list </dev/null
