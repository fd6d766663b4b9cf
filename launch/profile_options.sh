#!/usr/bin/env bash
# Common parts of profile_nsys.sh and profile_ncu.sh; sourced by them after they set root.

# shellcheck disable=SC2034,SC2154
# profile_options TOOL NAME ARGUMENTS...: sets ranks, folder, first, last, kernels, count, device and words (the command
# with its window of steps); ends with 2 where an argument or the tool is wrong.
profile_options() {
  local tool=$1 name=$2 script=profile_$1.sh word
  shift 2
  ranks=1 folder=profile first='' last='' kernels=upcycle count=50 device='' words=()
  while (($#)); do
    case "$1" in
      -n) ranks=${2:-}; shift ;;
      -o) folder=${2:-}; shift ;;
      --first) first=${2:-}; shift ;;
      --last) last=${2:-}; shift ;;
      --kernels) kernels=${2:-}; shift ;;
      --count) count=${2:-}; shift ;;
      -h | --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "$root/launch/$script"; exit 0 ;;
      -*) echo "$script: unknown option $1 (known: -n, -o, --first, --last$([[ $tool == ncu ]] && echo ", --kernels, --count"))" >&2; exit 2 ;;
      *) break ;;
    esac
    (($#)) && shift
  done
  window "$@"
  for word in "$ranks" "$first" "$last" "$count"; do
    [[ $word =~ ^[1-9][0-9]*$ ]] || { echo "$script: found '$word', expected a number from 1 on" >&2; exit 2; }
  done
  if [[ ${1:-} != train && "${1:-} ${2:-}" != "bench step" ]]; then
    echo "$script: found '${1:-}', expected train or bench step: see $script --help" >&2
    exit 2
  fi
  words=("$@")
  for word in "$@"; do
    [[ $word != --device=* ]] || device=${word#--device=}
  done
  [[ -n $device ]] || { device=cuda && words+=(--device=cuda); }
  words+=("--train.profile_step_start=$first" "--train.profile_step_end=$last")
  command -v "$tool" >/dev/null || {
    echo "$script: $tool is not on the PATH: install $name, or add its folder to PATH" >&2
    exit 2
  }
}

# window COMMAND...: sets first and last if they were not given: steps 10 to 12, of bench step its last two.
window() {
  local steps=6 warmup=2 word before='' start=10 end=12
  if [[ "${1:-} ${2:-}" == "bench step" ]]; then
    for word in "$@"; do # --steps=4 and --steps 4 are the same
      case "$before" in --steps | --warmup) word=$before=$word ;; esac
      case "$word" in
        --steps=*) steps=${word#*=} ;;
        --warmup=*) warmup=${word#*=} ;;
      esac
      before=$word
    done
    if [[ $steps:$warmup =~ ^[0-9]+:[0-9]+$ ]]; then
      end=$((10#$steps + 10#$warmup)) # else the program says what is wrong
      start=$((end > 1 ? end - 1 : end))
    fi
  fi
  [[ ! $last =~ ^[0-9]+$ ]] || ((10#$last >= start)) || start=$last
  : "${first:=$start}"
  [[ ! $first =~ ^[0-9]+$ ]] || ((10#$first <= end)) || end=$first
  : "${last:=$end}"
}

# profile_ranks SCRIPT: runs the command on all ranks, each through SCRIPT.
profile_ranks() {
  local preset=cuda
  [[ $device != cpu ]] || preset=release
  export UPCYCLE_PROFILED=${UPCYCLE_BINARY:-$root/build/$preset/upcycle}
  if [[ ! -x $UPCYCLE_PROFILED ]]; then
    echo "$(basename "$1"): no binary at $UPCYCLE_PROFILED: build it (launch/build.sh --preset $preset), or set UPCYCLE_BINARY" >&2
    exit 2
  fi
  # Set here what the program would otherwise exec itself for (launch/bound_spinning.h): profilers may not follow that.
  [[ -n ${GOMP_SPINCOUNT:-}${OMP_WAIT_POLICY:-} ]] || export GOMP_SPINCOUNT=3000
  mkdir -p "$folder"
  UPCYCLE_PROFILE_FOLDER=$(cd "$folder" && pwd)
  export UPCYCLE_PROFILE_FOLDER
  UPCYCLE_BINARY=$1 exec "$root/launch/run_local.sh" -n "$ranks" "${words[@]}"
}
