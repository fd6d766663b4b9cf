#!/usr/bin/env bash
# The environment for programs of a GPU bundle (launch/gpu_bundle.sh); sourced. Sets $bundle, the folder into which it
# was unpacked, and links this machine's CUDA libraries into $bundle/cuda, where the programs look for them: from a
# toolkit, the system's list or Python wheels, or from the folders in UPCYCLE_CUDA_LIBRARIES (a:b). Fails with one line
# if one of them is not found. LD_LIBRARY_PATH is not set: it would affect python3, nvidia-smi and compute-sanitizer
# too.
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Open MPI and PMIx find their plugins, help texts and settings in the bundle, whatever another Open MPI left in the
# environment; hwloc finds no plugins: its own look for displays.
export OPAL_PREFIX=$bundle OPAL_PKGLIBDIR=$bundle/lib/openmpi OPAL_SYSCONFDIR=$bundle/etc
export PMIX_PREFIX=$bundle PMIX_PKGLIBDIR=$bundle/lib/pmix PMIX_PKGDATADIR=$bundle/share/pmix PMIX_SYSCONFDIR=$bundle/etc
export HWLOC_PLUGINS_PATH=$bundle/lib/hwloc PATH=$bundle/bin:$PATH
source "$bundle/launch/open_mpi_settings.sh"
[[ -n ${PMIX_NAMESPACE:-} ]] || unset "${!PMI_@}" # it knows PMIx alone: under PMI-2 a task is a program by itself
export UPCYCLE_TESTS_ROOT=$bundle/tests

cuda_folders() { # the folders that may hold CUDA's libraries, the best first
  local IFS=: folder
  printf '%s\n' ${UPCYCLE_CUDA_LIBRARIES:-}
  [[ -z ${UPCYCLE_CUDA_LIBRARIES:-} ]] || return 0
  for folder in ${CUDA_HOME:-} ${CUDA_PATH:-} /usr/local/cuda /usr/local/cuda-13*; do
    printf '%s\n' "$folder/lib64" "$folder/lib"
  done
  printf '%s\n' ${LD_LIBRARY_PATH:-}
  { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null |
    while read -r folder; do [[ $folder != *' => '/* ]] || { folder=${folder##* => }; echo "${folder%/*}"; }; done
  python3 -c 'import glob, sys
for folder in sys.path:
    print(*glob.glob(glob.escape(folder) + "/nvidia/*/lib"), sep="\n")' 2>/dev/null
}

link_cuda() {
  local name folder found folders=''
  mkdir -p "$bundle/cuda" || return 2
  for name in libcudart.so.13 libcublasLt.so.13 libnccl.so.2; do
    [[ -z ${UPCYCLE_CUDA_LIBRARIES:-} && -e $bundle/cuda/$name ]] && continue
    [[ -n $folders ]] || folders=$(cuda_folders)
    found=''
    while read -r folder; do
      [[ -n $folder && -e $folder/$name ]] && found=$(readlink -f "$folder/$name") && break
    done <<<"$folders"
    if [[ -z $found ]]; then
      echo "$(basename "$0"): $name is not found: it comes with CUDA 13 and NCCL, or with Python wheels; set UPCYCLE_CUDA_LIBRARIES=FOLDER:... to its folder" >&2
      return 2
    fi
    # Moved into place: ranks that srun starts all do this at once.
    ln -sf "$found" "$bundle/cuda/$name.$$" && mv -fT "$bundle/cuda/$name.$$" "$bundle/cuda/$name" || return 2
  done
}
link_cuda
