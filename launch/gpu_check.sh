#!/usr/bin/env bash
# Everything of the CUDA backend that only a GPU can show, on a machine that has one:
#   launch/gpu_check.sh [--out FOLDER] [--quick] [--no-build]
# Builds the preset cuda; runs the op tests and the training-step tests on the GPU against the CPU; trains the same model on
# both, and over NCCL where there are more GPUs; runs compute-sanitizer's four tools; measures steps and ops. Writes
# FOLDER/report.md (default: build/gpu_check) and a log of each part beside it. --quick leaves out the sanitizer and the
# large benchmark, and takes fewer steps, --no-build takes build/cuda as it is. Ends with 0 where all passed, 1 where something failed, 2 where it could not begin.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

out=build/gpu_check quick=0 build=1
while (($#)); do
  case "$1" in
    --out) out=${2:?--out needs a folder}; shift ;;
    --quick) quick=1 ;;
    --no-build) build=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    *) echo "gpu_check.sh: unknown option $1 (known: --out, --quick, --no-build)" >&2; exit 2 ;;
  esac
  shift
done
if ! command -v nvidia-smi >/dev/null || ! gpus=$(nvidia-smi -L 2>/dev/null) || [[ -z $gpus ]]; then
  echo "gpu_check.sh: nvidia-smi lists no GPU here: run it on a machine with an NVIDIA GPU and its driver" >&2
  exit 2
fi
count=$(grep -c '^GPU ' <<<"$gpus")
binaries=${UPCYCLE_GPU_BINARIES:-build/cuda} # a test names others, and a smaller UPCYCLE_GPU_BENCH
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
threads=${OMP_NUM_THREADS:-$(nproc)} # of a part of one rank; ranks share the cores by themselves

failed=0
rows=()
# part NAME COMMAND...: runs it into its log; a row of the report.
part() {
  local name=$1 log=$out/$1.log begin=$SECONDS result=passed
  shift
  echo "gpu_check.sh: $name"
  if ! OMP_NUM_THREADS=$threads "$@" >"$log" 2>&1 </dev/null; then
    result="**FAILED**, see $name.log"
    failed=1
    tail -n 5 "$log" | sed 's/^/    /'
  fi
  rows+=("| $name | $result | $((SECONDS - begin)) s | $(summary "$log") |")
}
summary() { # the line of a log that says most
  grep -aE '^\[  (PASSED|FAILED)  \] [0-9]+ tests?|ERROR SUMMARY|^same: |tokens/s' "$1" | tail -n 2 | tr '\n|' '  '
}
skipped() { rows+=("| $1 | not run: $2 | | |"); }

losses() { # BINARY ARGUMENTS...: the losses of the steps of a run
  local run
  run=$(mktemp -d "$out/run.XXXXXX") || return 1
  if ! "$@" --checkpoint.dir="$run" >"$run.log" 2>&1; then
    cat "$run.log" >&2
    return 1
  fi
  python3 -c 'import json, sys
print(*[json.loads(l)["loss"] for l in open(sys.argv[1]) if "\"loss\"" in l])' "$run/metrics.jsonl"
  rm -rf "$run" "$run.log"
}
# same TOLERANCE COMMAND -- COMMAND: two runs whose losses agree, relatively.
same() {
  local tolerance=$1 a b
  local -a first=()
  shift
  while [[ $1 != -- ]]; do first+=("$1"); shift; done
  shift
  a=$(losses "${first[@]}") && b=$(losses "$@") || return 1
  python3 - "$tolerance" "$a" "$b" <<'PY'
import sys
limit, a, b = float(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
print("first: ", *a)
print("second:", *b)
worst = max(abs(float(x) - float(y)) / abs(float(x)) for x, y in zip(a, b, strict=True))
print(f"same: {len(a)} losses, the largest relative difference {worst:.1e}, allowed {limit:.0e}")
sys.exit(not (len(a) > 0 and worst <= limit))
PY
}

if ((build)); then
  part build ./launch/build.sh --preset cuda upcycle_program test_gpu test_gpu_train test_gpu_parity_mpi
  if ((failed)); then
    echo "gpu_check.sh: the build failed, $out/build.log says why; --no-build takes $binaries as it is" >&2
    exit 2
  fi
fi
if [[ ! -x $binaries/upcycle ]]; then
  echo "gpu_check.sh: there is no $binaries/upcycle; $out/build.log says why" >&2
  exit 2
fi
binaries=$(cd "$binaries" && pwd)
upcycle=$binaries/upcycle tests=$binaries/tests/cuda_host

part ops "$tests/test_gpu"
part training_steps "$tests/test_gpu_train"

# The same tokens, weights and steps on the CPU and on the GPU.
text=$out/text.txt
for i in {1..2000}; do echo "The $((i % 7)) cats sat on mat $((i * 37 % 101)) for $((i % 13)) hours."; done >"$text"
part tokens "$upcycle" tokenize --tokenizer=bytes --output="$out/tokens" "$text"
steps=$((quick ? 3 : 10))
tiny=(train launch/configs/tiny_moe.json --data.train="$out/tokens" --model.vocab_size=258 --train.steps="$steps" --train.schedule=constant --train.warmup_steps=0
  --train.seq_length=64 --train.micro_batch_size=1 --train.global_batch_size=8)
part fp32_as_on_the_cpu same 1e-3 "$upcycle" "${tiny[@]}" --dtype=fp32 -- "$upcycle" "${tiny[@]}" --dtype=fp32 --device=cuda
if grep -q avx512f /proc/cpuinfo; then
  part bf16_as_on_the_cpu same 2e-2 "$upcycle" "${tiny[@]}" --dtype=bf16 -- "$upcycle" "${tiny[@]}" --dtype=bf16 --device=cuda
else
  skipped bf16_as_on_the_cpu "this CPU has no AVX-512 for bf16"
fi
for ranks in 2 4 8; do
  for layout in "ep=$ranks" "tp=2"; do
    if ((ranks > count)); then
      skipped "nccl_${ranks}_ranks_$layout" "$count GPU(s)"
    else
      part "nccl_${ranks}_ranks_$layout" same 1e-3 "$upcycle" "${tiny[@]}" --dtype=fp32 --device=cuda -- \
        env -u OMP_NUM_THREADS UPCYCLE_BINARY="$upcycle" ./launch/run_local.sh -n "$ranks" "${tiny[@]}" --dtype=fp32 --device=cuda "--parallel.$layout"
    fi
  done
done

for ranks in 2 4; do
  if ((ranks > count)); then
    skipped "parity_${ranks}_ranks" "$count GPU(s)"
  else
    part "parity_${ranks}_ranks" env -u OMP_NUM_THREADS UPCYCLE_BINARY="$binaries/tests/test_gpu_parity_mpi" \
      ./launch/run_local.sh -n "$ranks" "--gtest_filter=-Full*"
  fi
done

if ((quick)); then
  skipped compute-sanitizer "--quick"
elif ! command -v compute-sanitizer >/dev/null; then
  skipped compute-sanitizer "compute-sanitizer is not on the PATH"
else
  for tool in memcheck racecheck synccheck initcheck; do
    # Managed memory, that the op tests look at, is not followed by initcheck: it sees the training step alone.
    program=$tests/test_gpu
    [[ $tool != initcheck ]] || program=$tests/test_gpu_train
    part "sanitizer_$tool" env UPCYCLE_EMUL_TEST_SMALL=1 compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" \
      --gtest_filter="${UPCYCLE_SANITIZER_FILTER:-*-*Refuses*:*Golden*:*FiniteDifferences*}"
  done
fi

repeat=$((quick ? 4 : 20))
bench=${UPCYCLE_GPU_BENCH:-launch/configs/bench_moe.json}
part bench_step_bf16 "$upcycle" bench step "$bench" --device=cuda --dtype=bf16 --steps="$repeat" --warmup=3
part bench_step_fp32 "$upcycle" bench step "$bench" --device=cuda --dtype=fp32 --steps="$repeat" --warmup=3
part bench_ops_bf16 "$upcycle" bench ops "$bench" --device=cuda --dtype=bf16 "--seconds=0.$((quick ? 1 : 5))"
if ((!quick)); then
  # A layer and a vocabulary as large as Llama-3-8B's.
  large=(--model.hidden_size=4096 --model.intermediate_size=14336 --model.num_attention_heads=32
    --model.num_key_value_heads=8 --model.head_dim=128 --model.vocab_size=32000 --model.num_hidden_layers=1
    --model.max_position_embeddings=8192 --train.seq_length=4096 --train.micro_batch_size=2 --train.global_batch_size=2)
  part bench_large_ops "$upcycle" bench ops "$bench" --device=cuda --dtype=bf16 "${large[@]}"
  part bench_large_step "$upcycle" bench step "$bench" --device=cuda --dtype=bf16 "${large[@]}" --model.num_hidden_layers=2
fi

{
  echo "# Upcycle on $(sed -n 's/^GPU 0: \(.*\) (UUID.*/\1/p' <<<"$gpus"), $count GPU(s)"
  echo
  echo "$(date -u +%Y-%m-%d), driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1), \`launch/gpu_check.sh$( ((quick)) && echo " --quick")\`"
  echo
  echo "| part | result | time | |"
  echo "|--|--|--|--|"
  printf '%s\n' "${rows[@]}"
  for log in "$out"/bench_*.log; do
    [[ -e $log ]] || continue
    echo
    echo "## $(basename "$log" .log)"
    echo
    grep -aE '^\||roof|^step |^$' "$log" || echo "nothing: see the log"
  done
} >"$out/report.md"
echo "gpu_check.sh: $out/report.md: $( ((failed)) && echo "something FAILED" || echo "all that ran passed")"
exit "$failed"
