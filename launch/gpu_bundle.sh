#!/usr/bin/env bash
# Packs what a bare GPU machine needs to run launch/gpu_check.sh: programs, tests, goldens, configs and shared libraries.
#   launch/gpu_bundle.sh [--out FILE] [--build FOLDER] [--fast]
# Builds the preset gpu_bundle (CUDA, x86-64-v3) and writes FILE (default: build/upcycle_gpu.tar.xz). Unpacked anywhere on a
# machine with an NVIDIA driver and CUDA 13's cudart, cuBLASLt and NCCL, of a toolkit or of Python wheels, gpu_check.sh,
# bin/upcycle (on one GPU) and `./upcycle-run -n N` (on N of them) run there: no compiler, MPI, packages, root or network.
# --build packs the programs of that build folder as they are, --fast compresses little.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

file='' build='' packing=(--x86 --lzma2=preset=9) # a tenth smaller than -9, a quarter than -6
while (($#)); do
  case "$1" in
    --out) file=$(realpath -m "${2:?--out needs a file}"); shift ;;
    --build) build=$(realpath -m "${2:?--build needs a folder}"); shift ;;
    --fast) packing=(-0) ;;
    -h | --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    *) echo "gpu_bundle.sh: unknown option $1 (known: --out, --build, --fast)" >&2; exit 2 ;;
  esac
  shift
done
cd "$root"
file=${file:-$root/build/upcycle_gpu.tar.xz}
if [[ -z $build ]]; then
  build=$root/build/gpu_bundle
  ./launch/build.sh --preset gpu_bundle gpu_programs
fi
if [[ ! -x $build/upcycle || ! -x $build/test_gpu ]]; then
  echo "gpu_bundle.sh: $build has no upcycle or no test_gpu: build its target gpu_programs" >&2
  exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work" "$file.tmp"' EXIT
bundle=$work/upcycle_gpu
mkdir -p "$bundle"/{lib/openmpi,lib/pmix,share/openmpi,share/pmix,bin,launch,tests}
cmake --install "$build" --component gpu_bundle --prefix "$bundle" --strip >"$work/install.log" || {
  cat "$work/install.log" >&2
  exit 1
}

# Open MPI's starter and its help texts.
if ! openmpi=$(type -P mpirun) || ! data=$(ompi_info --parsable --path pkgdatadir 2>/dev/null); then
  echo "gpu_bundle.sh: there is no Open MPI to pack (Debian: openmpi-bin)" >&2
  exit 2
fi
cp -L "$openmpi" "$bundle/programs/mpirun"
cp "${data##*:}"/*.txt "$bundle/share/openmpi/"

# The libraries that the programs link, and those that they open: a rank by itself, two ranks, and what starts these
# (Open MPI's plugins and theirs); except CUDA's and those that every machine has.
record() { # STARTER...: what a step of a tiny model opens
  (
    source launch/open_mpi_settings.sh
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
    HWLOC_PLUGINS_PATH=$work OMP_NUM_THREADS=1 LD_DEBUG=files LD_DEBUG_OUTPUT=$work/opened exec "$@" \
      "$build/upcycle" bench step launch/configs/tiny_moe.json --device=cpu --model.num_hidden_layers=1 \
      --train.seq_length=16 --train.micro_batch_size=1 --train.global_batch_size=2 --steps=1 --warmup=0
  ) >"$work/run.log" 2>&1 </dev/null && return
  cat "$work/run.log" >&2
  echo "gpu_bundle.sh: the program does not run here, so the libraries that it opens are not known" >&2
  exit 1
}
record env
record "$openmpi" --oversubscribe --bind-to none -n 2
{
  sed -n 's/.*calling init: //p' "$work"/opened.*
  ldd "$build"/test_gpu "$build"/test_gpu_train "$build"/test_gpu_parity_mpi "$build"/test_gpu_serve_mpi | sed -n 's/.* => \(.*\) (0x.*/\1/p'
} | sort -u | while read -r library; do
  case "${library##*/}" in
    ld-linux* | libc.so* | libm.so* | libmvec.so* | libdl.so* | librt.so* | libpthread.so* | libresolv.so* | libutil.so*) ;;
    libstdc++.so* | libgcc_s.so* | libcuda.so* | libcudart.so* | libcublasLt.so* | libnccl.so*) ;;
    mca_*) cp -L "$library" "$bundle/lib/openmpi/" ;;
    pmix_mca_*) cp -L "$library" "$bundle/lib/pmix/" && cp -u "${library%/*/*/*}"/share/pmix/*.txt "$bundle/share/pmix/" ;;
    *) cp -L "$library" "$bundle/lib/" ;;
  esac
done
# Remove the libraries' own RPATHs: they name folders of this machine, and would override the programs' RPATH.
chmod -R u+w "$bundle/lib"
printf 'file(GLOB_RECURSE libraries %s/lib/*)\nforeach(library ${libraries})\n  file(RPATH_REMOVE FILE ${library})\nendforeach()\n' \
  "$bundle" >"$work/rpath.cmake"
cmake -P "$work/rpath.cmake" >"$work/rpath.log"

cp launch/{gpu_check,gpu_bundle_environment,open_mpi_settings,run_local}.sh launch/same_losses.py "$bundle/launch/"
cp -r launch/configs "$bundle/launch/"
cp -r tests/golden "$bundle/tests/"
ln -s launch/gpu_check.sh "$bundle/gpu_check.sh"
ln -s launch/run_local.sh "$bundle/upcycle-run"
cat >"$bundle/bin/upcycle" <<'END'
#!/usr/bin/env bash
source "$(dirname "$(readlink -f "$0")")/../launch/gpu_bundle_environment.sh" && exec "$bundle/programs/upcycle" "$@"
END
# The loader itself is told where the libraries of mpirun lie: a variable would also reach what mpirun starts.
cat >"$bundle/bin/mpirun" <<'END'
#!/usr/bin/env bash
bundle=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
exec /lib64/ld-linux-x86-64.so.2 --library-path "$bundle/lib" --argv0 mpirun "$bundle/programs/mpirun" "$@"
END
chmod +x "$bundle"/bin/*
newest() { # of the versions of a library that anything in the bundle asks for
  find "$bundle" -type f \( -path '*/programs/*' -o -name '*.so*' \) -print0 | xargs -0 objdump -T |
    grep -o "($1_[0-9.]*)" | tr -d '()' | sort -Vu | tail -n 1
}
changed=$(git status --porcelain --untracked-files=no 2>/dev/null || true)
cat >"$bundle/bundle.txt" <<END
commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)${changed:+, with changes}

./gpu_check.sh --quick             everything that only a GPU can show; --help says more
bin/upcycle bench step launch/configs/bench_moe.json --device=cuda
./upcycle-run -n 8 bench step launch/configs/bench_moe.json --device=cuda --parallel.ep=8 --train.global_batch_size=32

Needs an x86-64-v3 processor, $(newest GLIBC), $(newest GLIBCXX), bash, util-linux, python3, an NVIDIA driver, and libcudart.so.13,
libcublasLt.so.13 and libnccl.so.2 (of a CUDA toolkit, of Python wheels, or where UPCYCLE_CUDA_LIBRARIES=FOLDER:... says).
END

mkdir -p "$(dirname "$file")"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX \
  --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" -cf - upcycle_gpu | xz "${packing[@]}" -T1 >"$file.tmp"
mv "$file.tmp" "$file"
echo "gpu_bundle.sh: $file: $(du -h --apparent-size "$file" | cut -f1), unpacked $(du -sh "$bundle" | cut -f1)"
