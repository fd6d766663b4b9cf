#!/usr/bin/env bash
# Installs the Debian 12 packages of the named groups that are missing: build, test, quickstart (default: build).
set -euo pipefail

packages() {
  case "$1" in
    build)
      echo build-essential cmake ninja-build ccache pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libdnnl-dev \
        libsentencepiece-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libxxhash-dev libgtest-dev ;;
    test) echo libbenchmark-dev hdf5-tools sentencepiece clang-format python3-venv ;;
    quickstart) echo sentencepiece bible-kjv perl-doc jq ;;
    *) echo "install.sh: unknown group '$1' (known: build, test, quickstart)" >&2; return 2 ;;
  esac
}

wanted=()
for group in "${@:-build}"; do
  list=$(packages "$group")
  read -ra names <<<"$list"
  wanted+=("${names[@]}")
done

if ! command -v dpkg-query >/dev/null; then
  echo "install.sh: not a Debian system; install by hand: ${wanted[*]}" >&2
  exit 2
fi
# dpkg-query fails when it has never heard of one of them; what it prints of the others still counts.
installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
  awk '$1 == "installed" { printf "%s ", $2 }' || true)"
missing=()
for name in "${wanted[@]}"; do
  [[ $installed == *" $name "* || " ${missing[*]-} " == *" $name "* ]] || missing+=("$name")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install.sh: as root, run: apt-get install ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo)
fi
echo "install.sh: installing ${#missing[@]} packages with apt-get: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" \
    </dev/null >"$log" 2>&1
}
if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
  tail -n 20 "$log" >&2
  echo "install.sh: apt-get failed; its last lines are above" >&2
  exit 1
fi
