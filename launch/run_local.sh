#!/bin/bash
# Runs upcycle on several ranks of this machine:
#   launch/run_local.sh -n 4 train run.json --train.steps=100
# UPCYCLE_BINARY names the binary, by default the release preset's; OMP_NUM_THREADS, if set, is kept. In a GPU bundle
# (launch/gpu_bundle.sh), where it is also called upcycle-run, it uses the bundle's program and Open MPI.
set -euo pipefail
name=$(basename "$0")

usage() {
  echo "usage: $0 -n RANKS COMMAND [ARGUMENTS]" >&2
  exit 2
}

[[ ${1:-} == -n && ${2:-} =~ ^[1-9][0-9]*$ && $# -ge 3 ]] || usage
ranks=$2
shift 2

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
  local line begun='' kept=() ended
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
    elif [[ -n $begun || $ended == 0 ]]; then
      printf '%s\n' "$begun"
    fi
    begun=''
    ((ended == 0)) || break
  done
  ((${#kept[@]} == 0)) || printf '%s\n' "${kept[@]}"
}
exec {errors}> >(ours_last >&2)
reader=$!

# OpenMPI's default binding, one core per rank, would put all of a rank's threads on that core.
start=(mpirun --quiet --oversubscribe --bind-to none -n "$ranks")
code=0
if [[ ${1:-} != train ]]; then
  setpriv --pdeathsig TERM "${start[@]}" "$binary" "$@" 2>&"$errors" {errors}>&- || code=$?
  exec {errors}>&-
  wait "$reader"
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
stop=0
trap 'ask_to_stop TERM' TERM
trap 'ask_to_stop USR1' USR1
# A session of its own, so that a signal to this script's whole process group (as from `timeout`) reaches only this
# script; mpirun still ends with it.
(
  trap '' USR1
  exec setpriv --pdeathsig TERM setsid "${start[@]}" env --ignore-signal=USR1 "$binary" "$@" 2>&"$errors" {errors}>&-
) &
mpirun=$!
exec {errors}>&-
trap 'kill -INT "$mpirun" 2>/dev/null' INT
trap 'kill -HUP "$mpirun" 2>/dev/null' HUP
((stop == 0)) || ask_to_stop USR1
while kill -0 "$mpirun" 2>/dev/null; do wait "$mpirun" || true; done
wait "$mpirun" || code=$?
wait "$reader" || true
if ((hurried && code != 0)); then
  echo "$name: a second SIGTERM: ended without saving; the same command goes on from the newest checkpoint" >&2
  exit 3
fi
if ((code > 128)); then
  echo "$name: a rank died of signal $((code - 128)); the same command goes on from the newest checkpoint" >&2
fi
exit "$code"
