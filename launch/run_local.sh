#!/bin/bash
# Runs upcycle on several ranks of this machine:
#   launch/run_local.sh -n 4 train run.json --train.steps=100
# UPCYCLE_BINARY names the binary, by default the release preset's; OMP_NUM_THREADS, if set, is kept. In a GPU bundle
# (launch/gpu_bundle.sh), where it is also called upcycle-run, it uses the bundle's program and Open MPI.
# UPCYCLE_ELASTIC=6: where a rank of a training run is lost, the run goes on with as many fewer as fit it, at least 6
# (`upcycle plan --most-ranks`); UPCYCLE_ELASTIC_MEMORY=80GiB: and as fit so much memory of a rank.
set -euo pipefail
name=$(basename "$0")

usage() {
  echo "usage: $0 -n RANKS COMMAND [ARGUMENTS]" >&2
  exit 2
}

[[ ${1:-} == -n && ${2:-} =~ ^[1-9][0-9]*$ && $# -ge 3 ]] || usage
ranks=$2
shift 2
[[ ${UPCYCLE_ELASTIC:-1} =~ ^[1-9][0-9]{0,7}$ ]] || {
  echo "$name: UPCYCLE_ELASTIC: found '$UPCYCLE_ELASTIC', expected the fewest ranks to go on with, at least 1" >&2
  exit 2
}
[[ ${UPCYCLE_MAX_RESTARTS:-1} =~ ^(0|[1-9][0-9]{0,7})$ ]] || {
  echo "$name: UPCYCLE_MAX_RESTARTS: found '$UPCYCLE_MAX_RESTARTS', expected how often to go on" >&2
  exit 2
}

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
binary=$root/build/release/upcycle
if [[ -e $root/bundle.txt ]]; then
  # In an allocation of SLURM, or itself started by srun: these ranks are not the scheduler's.
  unset "${!SLURM_@}" "${!PMI_@}" "${!PMIX_@}"
  source "$root/launch/gpu_bundle_environment.sh" || exit 2
  binary=$root/programs/upcycle
fi
binary=${UPCYCLE_BINARY:-$binary}
if [[ ! -x $binary ]]; then
  echo "$name: no binary at $binary: build it, or set UPCYCLE_BINARY" >&2
  exit 2
fi
if ! command -v mpirun >/dev/null; then
  echo "$name: mpirun is not installed (Debian: openmpi-bin)" >&2
  exit 2
fi

if ((EUID == 0)); then  # containers and CI run as root, which OpenMPI refuses unless told twice
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
cores=$(nproc)
if ((ranks > cores)); then
  export OMPI_MCA_mpi_yield_when_idle=1  # waiting ranks give their core away: a barrier takes 10 us, not 20 ms
fi
threads=$((cores / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

# The last line is the error "upcycle: ...": it is held back until the job has ended, or has been silent for some
# seconds, so that lines of other ranks and of mpirun do not bury it.
ours_last() {
  local line begun='' kept=() ended waited=0
  trap '' INT TERM HUP USR1
  for ((;;)); do
    ended=0
    if ((${#kept[@]})); then
      IFS= read -r -t 5 line || ended=$?
    else
      IFS= read -r line || ended=$?
    fi
    begun+=$line
    if ((ended > 128)); then # nothing came in the 5 seconds
      printf '%s\n' "${kept[@]}"
      kept=()
      continue
    fi
    if [[ $begun == "upcycle: "* ]]; then
      kept+=("$begun")
      [[ $begun != *"(parallel.timeout_s = "* ]] || waited=$waited_too_long
    elif [[ -n $begun || $ended == 0 ]]; then
      printf '%s\n' "$begun"
    fi
    begun=''
    ((ended == 0)) || break
  done
  ((${#kept[@]} == 0)) || printf '%s\n' "${kept[@]}"
  return "$waited"
}
waited_too_long=9 # how ours_last ends where the line says so

# OpenMPI's default binding, one core per rank, would put all of a rank's threads on that core.
start=(mpirun --quiet --oversubscribe --bind-to none -n)
code=0
if [[ ${1:-} != train ]]; then
  exec {errors}> >(ours_last >&2)
  reader=$!
  setpriv --pdeathsig TERM "${start[@]}" "$ranks" "$binary" "$@" 2>&"$errors" {errors}>&- || code=$?
  exec {errors}>&-
  wait "$reader" || true
  exit "$code"
fi

# mpirun answers SIGTERM by killing its ranks a second later, but passes SIGUSR1 on, on which they save at the end of a
# step. Signals before its ranks are ready are lost, so it is repeated until they have ended; no process may die of it
# earlier.
# A second SIGTERM, a second or more after the first, is passed on as it is: mpirun then ends them at once.
mpirun='' asking='' asked=0 hurried=0
ask_to_stop() {
  local now=${EPOCHREALTIME//[!0-9]/}
  if ((stop && now - asked >= 1000000)) && [[ $1 == TERM && -n $mpirun ]]; then
    hurried=1
    kill -TERM "$mpirun" 2>/dev/null
    return 0
  fi
  ((stop)) || asked=$now
  stop=1
  [[ -n $mpirun && -z $asking ]] || return 0
  (
    trap '' TERM USR1
    while kill -USR1 "$mpirun" 2>/dev/null; do sleep 1; done
  ) &
  asking=$!
}
stop=0 ended=0
trap 'ask_to_stop TERM' TERM
trap 'ask_to_stop USR1' USR1
trap 'end_by INT' INT
trap 'end_by HUP' HUP
end_by() {
  ended=1
  [[ -z $mpirun ]] || kill -"$1" "$mpirun" 2>/dev/null || true
}

run_ranks() { # ranks argument...: sets code, and lost where a rank is: it died, or others waited for it too long
  local ranks=$1 errors reader said=0
  shift
  exec {errors}> >(ours_last >&2)
  reader=$!
  # A session of its own, so that a signal to this script's whole process group (as from `timeout`) reaches only this
  # script; mpirun still ends with it.
  (
    trap '' USR1
    exec setpriv --pdeathsig TERM setsid "${start[@]}" "$ranks" env --ignore-signal=USR1 "$binary" "$@" 2>&"$errors" {errors}>&-
  ) &
  mpirun=$!
  exec {errors}>&-
  ((stop == 0)) || ask_to_stop USR1
  while kill -0 "$mpirun" 2>/dev/null; do wait "$mpirun" || true; done
  code=0
  wait "$mpirun" || code=$?
  mpirun='' asking=''
  wait "$reader" || said=$?
  if ((hurried && code != 0)); then
    echo "$name: a second SIGTERM: ended without saving; the same command goes on from the newest checkpoint" >&2
    exit 3
  fi
  if ((code > 128)); then
    echo "$name: a rank died of signal $((code - 128)); the same command goes on from the newest checkpoint" >&2
  fi
  lost=$((code > 128 || (code != 0 && said == waited_too_long)))
}

run_ranks "$ranks" "$@"
restarts=0
while [[ -n ${UPCYCLE_ELASTIC:-} ]] && ((lost && stop == 0 && ended == 0)); do
  if ((++restarts > ${UPCYCLE_MAX_RESTARTS:-10})); then
    echo "$name: went on $((restarts - 1)) times, UPCYCLE_MAX_RESTARTS allows no more" >&2
    break
  fi
  left=0 layout=''
  ((ranks == 1)) || read -r left layout < <("$binary" plan "${@:2}" --most-ranks=$((ranks - 1)) \
    ${UPCYCLE_ELASTIC_MEMORY:+--memory="$UPCYCLE_ELASTIC_MEMORY"}) || true
  ((ended == 0)) || break
  if ((left < UPCYCLE_ELASTIC)); then
    echo "$name: $left of the $((ranks - 1)) ranks that are left fit this run, UPCYCLE_ELASTIC asks for $UPCYCLE_ELASTIC at least" >&2
    break
  fi
  echo "$name: going on with $left of $ranks ranks, $layout, from the newest checkpoint" >&2
  ranks=$left
  run_ranks "$ranks" "$@" $layout
done
exit "$code"
