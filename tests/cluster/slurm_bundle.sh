#!/bin/bash
# slurm_bundle.sh UPCYCLE: the GPU bundle that launch/gpu_bundle.sh packs of the build that UPCYCLE lies in, under SLURM: srun
# starts its ranks on two hosts by the PMIx in it, without PMIx they refuse in one line, and its own launcher starts
# ranks inside an allocation.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm.sh"
enter_cluster "$@"

logged "$here/../../launch/gpu_bundle.sh" --build "$(dirname "$UPCYCLE_BINARY")" --fast --out "$world/bundle.tar.xz"
tar -C "$world" -xf "$world/bundle.tar.xz"
bundle=$world/upcycle_gpu
step=("$bundle/launch/configs/tiny_moe.json" --model.num_hidden_layers=1 --train.seq_length=16 --train.micro_batch_size=1
  --train.global_batch_size=4 --steps=1 --warmup=0)
add_host 1
add_host 2
start_slurm 2
export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_btl_tcp_if_include=10.77.0.0/24

status=0
expect() { # CODE LINES TEXT COMMAND...: how the command ends, and how often TEXT and srun's own words are all that it says
  local code=0 said
  "${@:4}" >"$world/out" 2>&1 || code=$?
  said=$(grep -c "$3" "$world/out") || true
  [[ $code == "$1" && $said == "$2" ]] && ! grep -q "Open MPI\|OMPI\|MPI_Init" "$world/out" && return
  cat "$world/out" >&2
  echo "FAILED: ended with $code, expected $1, and «$3» $2 times: ${*:4}"
  status=1
}
expect 0 1 "^step .* tokens/s" srun --mpi=pmix -N 2 --ntasks-per-node=2 "$bundle/bin/upcycle" bench step "${step[@]}" --parallel.tp=2 --parallel.ep=4
for without in none pmi2; do
  expect 2 1 "^upcycle: SLURM_NTASKS=4 but MPI has 1 rank" srun --mpi=$without -N 2 --ntasks-per-node=2 "$bundle/bin/upcycle" bench step "${step[@]}"
  expect 0 1 "^step .* tokens/s" srun --mpi=$without -N 1 -n 1 "$bundle/bin/upcycle" bench step "${step[@]}"
done
for with in none pmi2 pmix; do
  expect 0 1 "^step .* tokens/s" srun --mpi=$with -N 1 -n 1 "$bundle/upcycle-run" -n 2 bench step "${step[@]}"
done
((status)) || echo "under SLURM the bundle runs"
exit "$status"
