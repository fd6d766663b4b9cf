#!/usr/bin/env bash
# Installs what is missing of the named groups: build, test, quickstart, cluster (Debian 12 packages), nvtx (the headers
# of NVIDIA's profiling interface, from Python's package index, into build/deps). Default: build.
set -euo pipefail
deps=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/deps

packages() {
  case "$1" in
    build)
      echo build-essential cmake ninja-build ccache pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libdnnl-dev \
        libsentencepiece-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libxxhash-dev libgtest-dev ;;
    test) echo libbenchmark-dev hdf5-tools sentencepiece clang-format python3-venv ;;
    quickstart) echo sentencepiece bible-kjv perl-doc jq ;;
    cluster) echo slurmctld slurmd slurm-client munge iproute2 jq ;;
    nvtx) echo python3-venv ;;
    *) echo "install.sh: unknown group '$1' (known: build, test, quickstart, cluster, nvtx)" >&2; return 2 ;;
  esac
}

install_packages() {
  local -a wanted=() missing=() as_root=() names
  local group list installed name
  for group in "$@"; do
    list=$(packages "$group")
    read -ra names <<<"$list"
    wanted+=("${names[@]}")
  done

  if ! command -v dpkg-query >/dev/null; then
    echo "install.sh: not a Debian system; install by hand: ${wanted[*]}" >&2
    return 2
  fi
  # dpkg-query fails when it has never heard of one of them; what it prints of the others still counts.
  installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
    awk '$1 == "installed" { printf "%s ", $2 }' || true)"
  for name in "${wanted[@]}"; do
    [[ $installed == *" $name "* || " ${missing[*]-} " == *" $name "* ]] || missing+=("$name")
  done
  if ((${#missing[@]} == 0)); then
    return
  fi

  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "install.sh: as root, run: apt-get install ${missing[*]}" >&2
      return 2
    fi
    as_root=(sudo)
  fi
  echo "install.sh: installing ${#missing[@]} packages with apt-get: ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  local -a apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3
    -o DPkg::Lock::Timeout=300)
  if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install.sh: apt-get failed; its last lines are above" >&2
    return 1
  fi
}

# Headers only. They are moved into place last, so that what lies there is whole.
install_nvtx() {
  [[ -e $deps/nvtx/include/nvtx3/nvToolsExt.h ]] && return
  echo "install.sh: fetching NVTX's headers into $deps/nvtx"
  rm -rf "$deps/nvtx" "$deps/nvtx.tmp"
  mkdir -p "$deps/nvtx.tmp"
  python3 -m venv "$deps/nvtx.tmp/venv" &&
    "$deps/nvtx.tmp/venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --no-cache-dir \
      --target "$deps/nvtx.tmp/wheel" nvidia-nvtx==13.5.25 </dev/null &&
    mkdir "$deps/nvtx" && mv "$deps"/nvtx.tmp/wheel/nvidia/*/include "$deps/nvtx/include" &&
    rm -rf "$deps/nvtx.tmp" && return
  echo "install.sh: NVTX's headers could not be fetched; the messages above say why" >&2
  return 1
}

install_packages "${@:-build}"
for group in "$@"; do
  [[ $group != nvtx ]] || install_nvtx
done
