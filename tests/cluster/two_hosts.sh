#!/bin/bash
# two_hosts.sh UPCYCLE: four ranks on two virtual hosts, over TCP, train to the bit as four on one host.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/hosts.sh"
source "$here/small_run.sh"
need mpirun jq
enter_world "$@"

upcycle=$(readlink -f "$1")
make_small_run "$upcycle" "$world" 10
mpi_environment
add_host 1
add_host 2
layout=(--parallel.tp=2 --parallel.ep=4)  # tp inside a host, ep across both
logged mpirun -H head:4 -n 4 "$upcycle" train "$world/run.json" "${layout[@]}" --checkpoint.dir="$world/one"
logged mpirun -H vh1:2,vh2:2 -n 4 "$upcycle" train "$world/run.json" "${layout[@]}" --checkpoint.dir="$world/two"
expect_same_run "$world/one" "$world/two" 10
bytes=$(ip -s -j link show p2 | jq '.[0].stats64.rx.bytes')
((bytes > 1000000)) || { echo "FAILED: only $bytes bytes came from the second host"; exit 1; }
echo "the same 10 steps on one host and on two; $bytes bytes came from the second"
