#!/usr/bin/env bash
# What both image files do once the sources are copied: steps.sh PRESET MARCH installs what the program needs, builds it
# and keeps of the build only the program, which is `upcycle` then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
preset=$1 march=$2
export CCACHE_DISABLE=1

groups=(build tokenizer_json)
[[ $preset != cuda ]] || groups+=(cuda)
launch/install.sh "${groups[@]}"
launch/build.sh --preset "$preset" --march "$march" upcycle_program

mv "build/$preset/upcycle" build/upcycle
rm -rf "build/$preset"
mkdir "build/$preset"
mv build/upcycle "build/$preset/"
ln -sf "$PWD/build/$preset/upcycle" /usr/local/bin/upcycle
[[ ! -d /var/lib/apt/lists ]] || rm -rf /var/lib/apt/lists/*
