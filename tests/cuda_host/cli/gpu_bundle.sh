#!/usr/bin/env bash
# gpu_bundle.sh BUILD: what launch/gpu_bundle.sh packs of this build runs in a root folder that holds glibc, libstdc++, bash,
# coreutils, util-linux, grep, sed and Python of this machine, with CUDA's libraries where Python's wheels have them; without
# network, /dev/shm, /etc, a name that can be looked up, or (but for the check) root. What only a GPU can run is stood in
# for: the program drops --device=cuda.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
build=$(cd "$1" && pwd)

not_run() {
  echo "not run: gpu_bundle: $*"
  exit 77 # ctest: skipped
}
((EUID == 0)) || not_run "a root folder of its own needs root"
unshare --mount --net --uts true 2>/dev/null && command -v ip >/dev/null || not_run "this machine lets root make no namespaces"
python=$(python3 -c 'import sys; print(sys.executable)') || not_run "there is no python3"
standard=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
packages=/packages # where the bare root's Python has its wheels

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$root/launch/gpu_bundle.sh" --build "$build" --fast --out "$work/bundle.tar.xz"

bare=$work/root
mkdir -p "$bare"/{usr/bin,usr/lib,usr/lib64,usr/sbin,dev,proc,sys,tmp}
for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$bare/$folder"; done
tar -C "$bare" -xf "$work/bundle.tar.xz"
put() { [[ -e $bare$1 ]] || { mkdir -p "$(dirname "$bare$1")" && cp -L "$1" "$bare$1"; }; }
libraries_of() { ldd "$@" 2>/dev/null | sed -n 's/^[^/]*\(\/.*\) (0x.*/\1/p'; }
programs=("$python")
for name in bash env basename cat cut date dirname head ln ls mkdir mktemp mv nproc printf readlink rm sleep sort tail \
  timeout tr grep sed setpriv setsid; do
  programs+=("$(type -P "$name")")
done
for program in "${programs[@]}"; do put "$program"; done
[[ -e $bare/usr/bin/python3 ]] || ln -s "$python" "$bare/usr/bin/python3"
{
  libraries_of "${programs[@]}"
  libraries_of "$build/upcycle" | grep -E '/(lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s)\.so|ld-linux)'
} | sort -u | while read -r library; do put "$library"; done
mkdir -p "$bare$standard" "$bare$packages"/nvidia/{cu13,nccl}/lib
for device in null zero urandom; do : >"$bare/dev/$device"; done
ln -s /proc/self/fd "$bare/dev/fd"

# Without a GPU and without stand-ins.
cat >"$bare/as_it_is.sh" <<'END'
cd /upcycle_gpu
export OMP_NUM_THREADS=1
echo "user $EUID"
tiny="launch/configs/tiny_moe.json --model.num_hidden_layers=1 --train.seq_length=16 --train.micro_batch_size=1 --train.global_batch_size=1"
echo "== missing"
UPCYCLE_CUDA_LIBRARIES=/nowhere bin/upcycle --version
echo "ended with $?"
echo "== bench"
bin/upcycle bench step $tiny --steps=2 --warmup=1
echo "ended with $?"
bin/upcycle bench step $tiny --steps=1 --device=cuda
echo "ended with $?"
echo "== ranks"
./upcycle-run -n 4 bench step $tiny --train.global_batch_size=4 --parallel.tp=2 --parallel.ep=4 --steps=2 --warmup=1
echo "ended with $?"
./upcycle-run -n 4 bench step $tiny --train.global_batch_size=4 --device=cuda
echo "ended with $?"
./upcycle-run -n 4 train none.json
echo "ended with $?"
./upcycle-run train none.json
echo "ended with $?"
echo "== runs"
for i in {1..200}; do echo "$((i % 7)) cats sat on $((i * 37 % 101)) mats."; done >text.txt
bin/upcycle tokenize --tokenizer=bytes --output=tokens text.txt
for ranks in 4 2; do
  ./upcycle-run -n $ranks train $tiny --data.train=tokens --model.vocab_size=258 --train.global_batch_size=4 --parallel.ep=$ranks \
    --train.schedule=constant --train.warmup_steps=0 --train.steps=$((6 - ranks)) --checkpoint.dir=run
  echo "ended with $?"
done
ls -A /tmp
echo "== tests"
programs/test_gpu --gtest_list_tests | grep -c '^[A-Z]'
source launch/gpu_bundle_environment.sh
ls "$UPCYCLE_TESTS_ROOT/golden/mixtral_k2/golden.safetensors"
echo "== gpu_check"
./gpu_check.sh
echo "ended with $?"
END
# With stand-ins.
cat >"$bare/checked.sh" <<'END'
cd /upcycle_gpu
printf '#!/bin/bash\n[[ $1 == -L ]] && printf "GPU %%d: A stand-in (UUID: x)\\n" 0 1 2 3 || echo 1.2.3\n' >/usr/bin/nvidia-smi
printf '#!/bin/bash\necho "[  PASSED  ] 3 tests."\n' >programs/test_gpu
cat programs/test_gpu >programs/test_gpu_train
cat programs/test_gpu >programs/test_gpu_serve_mpi
cat programs/test_gpu >programs/test_gpu_parity_mpi
mv programs/upcycle programs/of_the_cpu
printf '#!/bin/bash\nfor word; do shift; [[ $word == --device=cuda ]] || set -- "$@" "$word"; done\nexec "${0%%/*}/of_the_cpu" "$@"\n' >programs/upcycle
python3 -c 'import os, sys
for name in sys.argv[1:]: os.chmod(name, 0o755)' /usr/bin/nvidia-smi programs/upcycle
OMP_NUM_THREADS=1 UPCYCLE_GPU_BENCH=launch/configs/tiny_moe.json UPCYCLE_GPU_BYTES=65536 ./gpu_check.sh --quick --minutes 4
echo "ended with $?"
cat gpu_check/report.md
END
cat >"$work/inside.sh" <<END
set -e
hostname nowhere
ip link set lo up
mount --bind "$standard" "$bare$standard"
mount -t proc proc "$bare/proc"
mount --rbind /sys "$bare/sys"
for device in null zero urandom; do mount --bind /dev/\$device "$bare/dev/\$device"; done
END
libraries_of "$build/upcycle" | while read -r library; do
  case "${library##*/}" in
    libnccl.so*) to=nccl ;;
    libcudart.so* | libcublasLt.so*) to=cu13 ;;
    *) continue ;;
  esac
  : >"$bare$packages/nvidia/$to/lib/${library##*/}"
  echo "mount --bind '$(readlink -f "$library")' '$bare$packages/nvidia/$to/lib/${library##*/}'"
done >>"$work/inside.sh"
chown -R 1000:1000 "$bare/upcycle_gpu"
chmod 1777 "$bare/tmp"
for script in as_it_is checked; do
  user=$([[ $script == checked ]] && echo 0 || echo 1000)
  echo "chroot --userspec=$user:$user '$bare' /usr/bin/env -i PATH=/usr/bin PYTHONPATH=$packages bash /$script.sh >'$work/$script.txt' 2>&1" >>"$work/inside.sh"
done
unshare --mount --net --uts --propagation private bash "$work/inside.sh" || {
  cat "$work"/*.txt
  exit 1
}

status=0
expect() { # FILE TEXT...: the texts stand in it in this order
  python3 - "$@" <<'PY' || status=1
import sys
text, at = open(sys.argv[1]).read(), 0
for part in sys.argv[2:]:
    found = text.find(part, at)
    if found < 0:
        print(text, f"FAILED: the above has no «{part}», or too early", sep="\n")
        sys.exit(1)
    at = found + len(part)
PY
}
expect "$work/as_it_is.txt" "user 1000
== missing
upcycle: libcudart.so.13 is not found: " "
ended with 2
== bench
" " tokens/s" "
ended with 0
" "device: found cuda, " "ended with 2
== ranks
" "
step " "ended with 0
" "
upcycle: command line: device: found cuda, " "ended with 2
" "
upcycle: none.json: found no such file, " "ended with 2
usage: ./upcycle-run -n RANKS COMMAND [ARGUMENTS]
ended with 2
== runs
" "ended with 0
" "
resumed run/step_" "ended with 0
== tests
" "golden.safetensors
== gpu_check
gpu_check.sh: nvidia-smi lists no GPU here: run it on a machine with an NVIDIA GPU and its driver
ended with 2
"
# Nothing else is said by what starts ranks, nor left in /tmp.
noise=$(sed -n '/^== ranks/,/^== runs/p' "$work/as_it_is.txt" | grep -vE '^(== |4 ranks, |step |memory of a rank: |[0-9.]+ % of it|upcycle: |usage: |ended with )') || true
left=$(sed -n '/^== runs/,/^== tests/{/^ompi/p}' "$work/as_it_is.txt")
[[ -z $noise$left ]] || { printf 'FAILED: too much: %s\n' "$noise" "$left"; status=1; }
# On the CPU nothing runs on tensor cores: only this check fails.
expect "$work/checked.txt" "ended with 1
# Upcycle on A stand-in, 4 GPU(s)" "driver 1.2.3" "gpu_check.sh --quick --minutes 4" "commit " "| ops | passed |" "| training_steps | passed |" \
  "| fp32_as_on_the_cpu | passed |" "| bf16_as_on_the_cpu | passed |" "| bf16_heads_of_64 | **FAILED**" \
  "same: 3 losses, the largest relative difference 0.0e+00" "attention_forward_mma ran 0 times" \
  "| bf16_heads_of_128 | **FAILED**" "| nccl_2_ranks_ep=2 | passed |" "| nccl_4_ranks_tp=2 | passed |" "| nccl_8_ranks_ep=8 | not run: 4 GPU(s) |" \
  "| parity_4_ranks | passed |" "| bench_step_bf16 | passed |" "| bench_collectives_4 | passed |" "| bench_step_4 | passed |" "| bench_ops_bf16 | passed |" "| compute-sanitizer | not run: --quick |"
((status)) || echo "a bare root runs the bundle"
exit "$status"
