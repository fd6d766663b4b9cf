#!/usr/bin/env bash
# clang-tidy with the checks of .clang-tidy over all that is compiled but the tests: tidy.sh [FILE...]. Clang can not read
# the headers that GCC has compiled, so it has a build folder of its own, which is configured and never built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
./launch/install.sh tidy
mkdir -p build/tidy
cmake --preset tidy >build/tidy/configure.log 2>&1 || { cat build/tidy/configure.log >&2; exit 1; }
files=("$@")
((${#files[@]})) || mapfile -t files < <(sed -nE "s,^ *\"file\": \"$(pwd -P)/((core|data|kernels|launch|parallel)/.*\.cpp)\".*,\1,p" \
  build/tidy/compile_commands.json | sort -u)

one() {  # prints nothing of a file in which nothing is found
  local found
  found=$(clang-tidy -p build/tidy --quiet --extra-arg=-Wno-unknown-warning-option \
    --extra-arg="-D__builtin_shuffle(x,...)=(x)" "$1" 2>&1) || { echo "$found"; return 1; }
}
export -f one
begin=$SECONDS
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'one "$1"' one {} ||
  { echo "tidy.sh: mend what is found, or say NOLINT(check) with the reason beside it" >&2; exit 1; }
echo "tidy.sh: ${#files[@]} files, nothing found, in $((SECONDS - begin)) s"
