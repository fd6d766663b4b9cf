#!/usr/bin/env bash
# Installs what is missing of the named groups: build, test, tidy, fuzz, quickstart, cluster, container (Debian 12 packages), and, from
# Python's package index into build/deps, tokenizer_json (a Python with the package tokenizers, which reads
# tokenizer.json, and jinja2 for its chat templates), parquet (the same with pyarrow, which reads .parquet and .zst), nvtx (headers of NVIDIA's profiling interface), cuda (if there is no CUDA toolkit: compiler, headers,
# runtime, cuBLAS and NCCL, 0.8 GB) and cuda_tools (the disassembler of GPU code). Default: build.
set -euo pipefail
deps=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/deps

packages() {
  case "$1" in
    build)
      echo build-essential cmake ninja-build ccache pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libdnnl-dev \
        libsentencepiece-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libxxhash-dev libgtest-dev \
        libcurl4-openssl-dev zlib1g-dev libzstd-dev ;;
    test) echo libbenchmark-dev hdf5-tools sentencepiece clang-format python3-venv ;;
    tidy) echo clang-tidy libomp-dev ;;
    fuzz) echo clang libclang-rt-dev libomp-dev ;;
    quickstart) echo sentencepiece bible-kjv perl-doc jq ;;
    cluster) echo slurmctld slurmd slurm-client munge iproute2 jq ;;
    container) echo mmdebstrap ;;
    tokenizer_json | parquet | nvtx | cuda_tools) echo python3-venv ;;
    cuda) have_cuda || echo python3-venv ;;
    *) echo "install.sh: unknown group '$1' (known: build, test, tidy, fuzz, quickstart, cluster, container, tokenizer_json, parquet, nvtx, cuda, cuda_tools)" >&2; return 2 ;;
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
  # dpkg-query fails if it does not know one of them, but still prints the others.
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

# Where upcycle and launch/tokenize_hf.py look for it (data/json_tokenizer.h). Its packages are found by the venv's own
# path, so it is made in place, and again if it is not complete.
install_tokenizer_json() {
  local python=$deps/tokenizer_json/bin/python3
  "$python" -c 'import tokenizers, jinja2' 2>/dev/null && return
  echo "install.sh: fetching the Python packages tokenizers and jinja2 into $deps/tokenizer_json"
  rm -rf "$deps/tokenizer_json"
  mkdir -p "$deps"
  python3 -m venv "$deps/tokenizer_json" &&
    "$python" -m pip --disable-pip-version-check install --quiet --no-deps --no-cache-dir tokenizers==0.23.3 \
      jinja2==3.1.6 markupsafe==3.0.3 </dev/null &&
    return
  rm -rf "$deps/tokenizer_json"
  echo "install.sh: the packages tokenizers and jinja2 could not be fetched; the messages above say why" >&2
  return 1
}

install_parquet() {
  install_tokenizer_json || return
  local python=$deps/tokenizer_json/bin/python3
  "$python" -c 'import pyarrow' 2>/dev/null && return
  echo "install.sh: fetching the Python package pyarrow into $deps/tokenizer_json"
  "$python" -m pip --disable-pip-version-check install --quiet --no-deps --no-cache-dir pyarrow==22.0.0 </dev/null && return
  echo "install.sh: the package pyarrow could not be fetched; the messages above say why" >&2
  return 1
}

# Headers only. They are moved into place last, so that the folder is always complete.
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

# Whether CMake will find a toolkit with everything that the backend needs.
have_cuda() {
  local nvcc headers
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  headers=$(dirname "$(dirname "$(readlink -f "$nvcc")")")/include
  # NCCL is in the CUDA folder, or in /usr from Debian packages.
  [[ -x $nvcc && -e $headers/cublasLt.h && (-e $headers/nccl.h || -e /usr/include/nccl.h) ]]
}

# One folder that looks like a toolkit; also moved into place last.
install_cuda() {
  have_cuda || [[ -x $deps/cuda/bin/nvcc ]] && return
  echo "install.sh: fetching CUDA's compiler and libraries into $deps/cuda (0.8 GB)"
  local tmp=$deps/cuda.tmp name
  rm -rf "$deps/cuda" "$tmp"
  mkdir -p "$tmp"
  if ! { python3 -m venv "$tmp/venv" &&
    "$tmp/venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --no-cache-dir --target "$tmp/wheel" \
      nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
      nvidia-cuda-cccl==13.0.85 nvidia-cuda-culibos==13.0.85 nvidia-cuda-profiler-api==13.0.85 nvidia-nvtx==13.0.85 \
      nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.28.9 </dev/null; }; then
    echo "install.sh: CUDA could not be fetched; the messages above say why" >&2
    return 1
  fi
  mv "$tmp/wheel/nvidia/cu13" "$tmp/cuda"
  cp "$tmp"/wheel/nvidia/nccl/include/*.h "$tmp/cuda/include/"
  mv "$tmp"/wheel/nvidia/nccl/lib/libnccl.so.2 "$tmp/cuda/lib/"
  for name in "$tmp"/cuda/lib/*.so.*; do # the names that linkers look for
    ln -sf "$(basename "$name")" "${name%%.so.*}.so"
  done
  ln -s lib "$tmp/cuda/lib64"
  chmod +x "$tmp"/cuda/bin/* "$tmp"/cuda/nvvm/bin/*
  mv "$tmp/cuda" "$deps/cuda" && rm -rf "$tmp"
}

# The disassembler for tests/cuda_host/check_cubins.sh; also moved into place last.
install_cuda_tools() {
  [[ -x $deps/cuda_tools/bin/nvdisasm && -x $deps/cuda_tools/bin/cuobjdump ]] && return
  echo "install.sh: fetching NVIDIA's disassembler into $deps/cuda_tools"
  rm -rf "$deps/cuda_tools" "$deps/cuda_tools.tmp"
  mkdir -p "$deps/cuda_tools.tmp"
  python3 -m venv "$deps/cuda_tools.tmp/venv" &&
    "$deps/cuda_tools.tmp/venv/bin/pip" --disable-pip-version-check install --quiet --no-deps --no-cache-dir \
      --target "$deps/cuda_tools.tmp/wheel" nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37 </dev/null &&
    mkdir "$deps/cuda_tools" && mv "$deps"/cuda_tools.tmp/wheel/nvidia/*/bin "$deps/cuda_tools/bin" &&
    rm -rf "$deps/cuda_tools.tmp" && return
  echo "install.sh: NVIDIA's disassembler could not be fetched; the messages above say why" >&2
  return 1
}

install_packages "${@:-build}"
for group in "$@"; do
  case "$group" in
    tokenizer_json) install_tokenizer_json ;;
    parquet) install_parquet ;;
    nvtx) install_nvtx ;;
    cuda) install_cuda ;;
    cuda_tools) install_cuda_tools ;;
  esac
done
