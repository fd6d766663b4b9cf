#!/usr/bin/env bash
# All checks of the CUDA backend that need a GPU, on a machine that has one:
#   launch/gpu_check.sh [--out FOLDER] [--quick] [--minutes N] [--no-build]
# Builds the preset cuda; runs the op tests and the training-step tests on the GPU against the CPU; trains the same models on
# both, and in several layouts on 2, 4 and 8 GPUs where there are as many; measures steps (with the memory in use beside the
# plan's), ops, and collectives (beside the links); runs compute-sanitizer's four tools; measures a large model. Writes
# FOLDER/report.md (default: build/gpu_check) again after every part, and a log of each part beside it.
# --quick leaves out the sanitizer, the large model and some layouts, and takes fewer steps. --minutes ends within N minutes: the most
# useful parts run first, and a part gets at most half of the remaining time. --no-build uses the existing build/cuda. In a
# bundle (launch/gpu_bundle.sh) nothing is built, and the default FOLDER is gpu_check. Exit code 0: all passed, 1: something
# failed, 2: it could not begin.
set -uo pipefail
told="$0 $*" begun=$SECONDS
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." || exit 2

out='' quick=0 build=1 minutes='' seconds=0
while (($#)); do
  case "$1" in
    --out) out=${2:?--out needs a folder}; shift ;;
    --quick) quick=1 ;;
    --minutes) minutes=${2:-none}; (($# > 1)) && shift ;;
    --no-build) build=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' launch/gpu_check.sh; exit 0 ;;
    *) echo "gpu_check.sh: unknown option $1 (known: --out, --quick, --minutes, --no-build)" >&2; exit 2 ;;
  esac
  shift
done
if ! command -v nvidia-smi >/dev/null || ! gpus=$(nvidia-smi -L 2>/dev/null) || [[ -z $gpus ]]; then
  echo "gpu_check.sh: nvidia-smi lists no GPU here: run it on a machine with an NVIDIA GPU and its driver" >&2
  exit 2
fi
if ! command -v python3 >/dev/null; then
  echo "gpu_check.sh: there is no python3 on the PATH; it compares runs" >&2
  exit 2
fi
if [[ -n $minutes ]] && ! seconds=$(python3 -c 'import sys
seconds = int(float(sys.argv[1]) * 60)
print(seconds)
sys.exit(seconds < 1)' "$minutes" 2>/dev/null); then
  echo "gpu_check.sh: --minutes: found '$minutes', expected a number, as 7.5" >&2
  exit 2
fi
count=$(grep -c '^GPU ' <<<"$gpus")
binaries=${UPCYCLE_GPU_BINARIES:-build/cuda} # a test names others, and a smaller UPCYCLE_GPU_BENCH and UPCYCLE_GPU_BYTES
out=${out:-build/gpu_check}
if [[ -e bundle.txt ]]; then
  source launch/gpu_bundle_environment.sh || exit 2
  binaries=programs build=0
  [[ $out != build/gpu_check ]] || out=gpu_check
fi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
threads=${OMP_NUM_THREADS:-$(nproc)} # of a part of one rank; ranks share the cores by themselves

failed=0 running='' child=''
rows=() broken=()
trap '[[ -z $child ]] || kill "$child" 2>/dev/null; exit 1' INT TERM HUP

# part NAME COMMAND...: runs COMMAND with output to its log, and adds a row to the report.
part() {
  local name=$1 log=$out/$1.log begin=$SECONDS result=passed code=0 limit=0 # seconds; 0: none
  shift
  if ((seconds)); then
    limit=$(((seconds - (SECONDS - begun)) / 2)) # half of what is left, but not so little that nothing comes of it
    ((limit > 0 && limit >= seconds / 40)) || { skipped "$name" "no time left"; return; }
  fi
  echo "gpu_check.sh: $name"
  running="| $name | running since $(date -u +%H:%M:%S) | | |"
  report
  # In the background, so that this script handles a signal at once; timeout passes it on to all that the command
  # started.
  OMP_NUM_THREADS=$threads timeout --kill-after=2 "$limit" "$@" >"$log" 2>&1 </dev/null &
  child=$!
  wait "$child" || code=$?
  child='' running=''
  if ((code)); then
    result="**FAILED**, see $name.log"
    ((limit && code >= 124 && SECONDS - begin >= limit)) && result="**stopped**: no end in the $limit s that it got"
    failed=1
    broken+=("$name")
    tail -n 5 "$log" | sed 's/^/    /'
  fi
  rows+=("| $name | $result | $((SECONDS - begin)) s | $(summary "$log") |")
  report
}
summary() { # the lines of a log that say most
  local lines
  lines=$(grep -aE '^\[  (PASSED|FAILED)  \] [0-9]+ tests?|ERROR SUMMARY|^same: |^step [0-9.]+ ms|^memory of a rank' "$1" | tail -n 4)
  [[ -n $lines ]] || ! grep -aq '^\[       OK \]' "$1" || lines="$(grep -ac '^\[       OK \]' "$1") tests passed until then"
  lines=${lines//$'\n'/; }
  echo "${lines//|/ }"
}
skipped() { rows+=("| $1 | not run: $2 | | |"); }

report() { # all results so far; moved into place, so that it is always complete
  local name log
  {
    echo "# Upcycle on $(sed -n 's/^GPU 0: \(.*\) (UUID.*/\1/p' <<<"$gpus"), $count GPU(s)"
    echo
    echo "$date, driver $driver, \`$told\`, $source_of"
    echo
    echo "| part | result | time | |"
    echo "|--|--|--|--|"
    printf '%s\n' "${rows[@]}" ${running:+"$running"}
    for name in "${broken[@]}"; do
      printf '\n## %s: the end of its log\n\n```\n' "$name"
      grep -aE '^\[  FAILED  \] |Failure$' "$out/$name.log" | sort -u | head -n 40
      tail -n 25 "$out/$name.log"
      echo '```'
    done
    for log in "$out"/bench_*.log; do
      [[ -e $log && " ${rows[*]} $running" == *"| $(basename "$log" .log) "* ]] || continue # not of an earlier check
      printf '\n## %s\n\n' "$(basename "$log" .log)"
      grep -aE '^\||roof|^step |^memory |^$' "$log" || echo "nothing: see the log"
    done
    [[ ! -s $out/links.txt ]] || printf '\n## links\n\n```\n%s\n```\n' "$(<"$out/links.txt")"
  } >"$out/report.md.tmp" && mv "$out/report.md.tmp" "$out/report.md"
}
date="$(date -u '+%Y-%m-%d %H:%M') UTC"
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
source_of="commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
[[ ! -e bundle.txt ]] || source_of=$(head -n 1 bundle.txt)

if ((build)); then
  part build ./launch/build.sh --preset cuda gpu_programs
  if ((failed)); then
    echo "gpu_check.sh: the build failed, $out/build.log says why; --no-build takes $binaries as it is" >&2
    exit 2
  fi
fi
if [[ ! -x $binaries/upcycle ]]; then
  echo "gpu_check.sh: there is no $binaries/upcycle; launch/build.sh --preset cuda gpu_programs makes it" >&2
  exit 2
fi
binaries=$(cd "$binaries" && pwd)
upcycle=$binaries/upcycle

part ops "$binaries/test_gpu"
part training_steps "$binaries/test_gpu_train"
part serving "$binaries/test_gpu_serve_mpi" --gtest_filter=-*RandomScheduling*

# The same tokens, weights and steps on the CPU and on the GPU.
text=$out/text.txt
for i in {1..2000}; do echo "The $((i % 7)) cats sat on mat $((i * 37 % 101)) for $((i % 13)) hours."; done >"$text"
part tokens "$upcycle" tokenize --tokenizer=bytes --output="$out/tokens" "$text"
steps=$((quick ? 3 : 10)) layers=$((quick ? 2 : 4))
tiny=("$upcycle" train launch/configs/tiny_moe.json --data.train="$out/tokens" --model.vocab_size=258 --model.num_hidden_layers="$layers"
  --train.steps="$steps" --train.schedule=constant --train.warmup_steps=0 --train.seq_length=64 --train.micro_batch_size=1 --train.global_batch_size=8)
ranges=()
# on_both NAME TOLERANCE OPTIONS...
on_both() {
  part "$1" ./launch/same_losses.py "$2" "$out" "${ranges[@]}" -- "${tiny[@]}" "${@:3}" -- "${tiny[@]}" "${@:3}" --device=cuda
}
on_both fp32_as_on_the_cpu 1e-3 --dtype=fp32
on_both bf16_as_on_the_cpu 2e-2 --dtype=bf16
# Head sizes that use attention on tensor cores; its trace ranges show that it ran.
recorder=$binaries/libnvtx_recorder.so
if [[ -e $recorder ]]; then
  ranges=("attention_forward_mma,attention_backward_mma" "$recorder")
else
  skipped attention_on_tensor_cores "the build has no NVTX to tell whether it ran"
fi
tiles=(--model.num_hidden_layers=1 --train.seq_length=160 --train.global_batch_size=2) # several, and not whole ones
for head in 64 128; do
  on_both "bf16_heads_of_$head" 2e-2 --dtype=bf16 --model.head_dim="$head" "${tiles[@]}"
done
enough() { # NAME RANKS: whether there are as many GPUs
  (($2 <= count)) || { skipped "$1" "$count GPU(s)"; return 1; }
}
on_ranks() { # RANKS PROGRAM ARGUMENTS...: sets `started`, the command; ranks share the cores by themselves
  started=(env -u OMP_NUM_THREADS UPCYCLE_BINARY="$2" ./launch/run_local.sh -n "$1" "${@:3}")
}
for ranks in 2 4 8; do
  layouts=("ep=$ranks" "tp=2")
  ((quick)) || layouts+=("ep=1")
  ((quick || ranks == 2)) || layouts+=("tp=2 ep=$ranks" "tp=2 ep=$((ranks / 2)) etp=2")
  for layout in "${layouts[@]}"; do
    name=nccl_${ranks}_ranks_${layout// /_}
    enough "$name" "$ranks" || continue
    read -ra keys <<<"$layout"
    on_ranks "$ranks" "$upcycle" "${tiny[@]:1}" --dtype=fp32 --device=cuda "${keys[@]/#/--parallel.}"
    part "$name" ./launch/same_losses.py 1e-3 "$out" -- "${tiny[@]}" --dtype=fp32 --device=cuda -- "${started[@]}"
  done
done
for ranks in 2 4; do
  enough "parity_${ranks}_ranks" "$ranks" || continue
  on_ranks "$ranks" "$binaries/test_gpu_parity_mpi" "--gtest_filter=-Full*"
  part "parity_${ranks}_ranks" "${started[@]}"
done

repeat=$((quick ? 4 : 20))
bench=${UPCYCLE_GPU_BENCH:-launch/configs/bench_moe.json}
part bench_step_bf16 "$upcycle" bench step "$bench" --device=cuda --dtype=bf16 --steps="$repeat" --warmup=3
part bench_step_fp32 "$upcycle" bench step "$bench" --device=cuda --dtype=fp32 --steps="$repeat" --warmup=3
# GB/s out of GPU 0 by all its NVLinks, if it has any.
{
  nvidia-smi topo -m
  nvidia-smi nvlink --status
} >"$out/links.txt" 2>&1 </dev/null
link=$(python3 -c 'import re, sys
first = re.split(r"^GPU [1-9]", sys.stdin.read(), flags=re.M)[0]
print(sum(map(float, re.findall(r"Link \d+: ([0-9.]+) GB/s", first))) or "")' <"$out/links.txt")
for ranks in 2 4 8; do
  if enough "bench_collectives_$ranks" "$ranks"; then
    on_ranks "$ranks" "$upcycle" bench collectives "$bench" --device=cuda --dtype=bf16 "--seconds=0.$((quick ? 02 : 1))" \
      --bytes="${UPCYCLE_GPU_BYTES:-256MiB}" ${link:+--link="$link"}
    part "bench_collectives_$ranks" "${started[@]}"
  fi
  if enough "bench_step_$ranks" "$ranks"; then
    on_ranks "$ranks" "$upcycle" bench step "$bench" --device=cuda --dtype=bf16 --steps="$repeat" --warmup=3 \
      --train.micro_batch_size=1 --train.global_batch_size="$((4 * ranks))" --parallel.ep="$ranks"
    part "bench_step_$ranks" "${started[@]}"
  fi
done
part bench_ops_bf16 "$upcycle" bench ops "$bench" --device=cuda --dtype=bf16 "--seconds=0.$((quick ? 1 : 5))"

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if ((quick)); then
  skipped compute-sanitizer "--quick"
elif [[ ! -x $sanitizer ]]; then
  skipped compute-sanitizer "compute-sanitizer is not on the PATH"
else
  for tool in memcheck racecheck synccheck initcheck; do
    # initcheck does not track managed memory, which the op tests use: it checks only the training step.
    program=$binaries/test_gpu
    [[ $tool != initcheck ]] || program=$binaries/test_gpu_train
    part "sanitizer_$tool" env UPCYCLE_EMUL_TEST_SMALL=1 "$sanitizer" --tool "$tool" --error-exitcode 1 "$program" \
      --gtest_filter="${UPCYCLE_SANITIZER_FILTER:-*-*Refuses*:*Golden*:*FiniteDifferences*}"
  done
fi
if ((!quick)); then
  # A layer and a vocabulary as large as Llama-3-8B's.
  large=(--model.hidden_size=4096 --model.intermediate_size=14336 --model.num_attention_heads=32
    --model.num_key_value_heads=8 --model.head_dim=128 --model.vocab_size=32000 --model.num_hidden_layers=1
    --model.max_position_embeddings=8192 --train.seq_length=4096 --train.micro_batch_size=2 --train.global_batch_size=2)
  part bench_large_ops "$upcycle" bench ops "$bench" --device=cuda --dtype=bf16 "${large[@]}"
  part bench_large_step "$upcycle" bench step "$bench" --device=cuda --dtype=bf16 "${large[@]}" --model.num_hidden_layers=2
  if enough bench_one_node 8; then # with half of its layers it fits whatever its other settings
    on_ranks 8 "$upcycle" bench step launch/configs/one_node_8b.json --device=cuda --model.num_hidden_layers=16 \
      --train.global_batch_size=32 --steps=3 --warmup=1
    part bench_one_node "${started[@]}"
  fi
fi
report
echo "gpu_check.sh: $out/report.md: $( ((failed)) && echo "something FAILED" || echo "all that ran passed")"
exit "$failed"
