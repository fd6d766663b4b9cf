#!/bin/bash
# The tests of the CUDA backend in one of the emulation's modes: run_stages.sh FOLDER_OF_PROGRAMS STAGE [ci|full].
#   schedules  op tests: threads and blocks in random order, by seeds, and reversed; two threads run blocks at once
#   deferred   op tests: streams overtake one another, device memory is closed to the ops' host code
#   train      a training step in that mode
#   asan       op tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   tsan       op tests on small shapes with every CUDA thread a thread of ThreadSanitizer's
# full: every test and more seeds. A failing run says how to repeat it.
set -uo pipefail
programs=$1 stage=$2 tier=${3:-ci}
full=0
[ "$tier" = ci ] || full=1
# Compares long loops in fp64, or is about refused arguments: nothing a sanitizer or an order would find.
slow='LinearXent.EqualsAPlainLoop:*Refuses*:CudaRowsTest.Embedding'
status=0

run() {  # seed-and-mode settings..., program, filter
  local filter=${*: -1} program=${*: -2:1}
  local -a settings=("${@:1:$#-2}") command
  command=(env "${settings[@]}" "$programs/$program" --gtest_brief=1 "--gtest_filter=$filter")
  echo "$stage: ${settings[*]} $program $filter"
  if ! "${command[@]}"; then
    echo "$stage: FAILED; again: ${command[*]}"
    status=1
  fi
}

case $stage in
  schedules)
    seeds=(1) filter="*-$slow"
    ((full)) && seeds=(1 2 3 4 5) filter='*'
    for seed in "${seeds[@]}"; do
      run UPCYCLE_EMUL_SEED="$seed" UPCYCLE_EMUL_THREADS=2 test_cuda_host "$filter"
    done
    ((full)) && run UPCYCLE_EMUL_ORDER=reverse test_cuda_host "$filter"
    ;;
  deferred)
    seeds=(1) filter="*-$slow"
    ((full)) && seeds=(1 2 3 4 5) filter='*'
    for seed in "${seeds[@]}"; do
      run UPCYCLE_EMUL_STREAMS=deferred UPCYCLE_EMUL_GUARD=1 UPCYCLE_EMUL_SEED="$seed" test_cuda_host "$filter"
    done
    ;;
  train)
    seeds=(1) filter='CudaTrainingStep.*'
    ((full)) && seeds=(1 2 3 4 5 6 7 8) filter='*'
    for seed in "${seeds[@]}"; do
      run UPCYCLE_EMUL_STREAMS=deferred UPCYCLE_EMUL_GUARD=1 UPCYCLE_EMUL_SEED="$seed" test_cuda_host_train "$filter"
    done
    ;;
  asan)
    filter="*-$slow:SchedulesOnCuda.*:*SameBits*:*ThreadsDoNotShow*"  # without what runs the same again
    ((full)) && filter='*'
    run ASAN_OPTIONS=detect_leaks=0 UPCYCLE_EMUL_STREAMS=deferred UPCYCLE_EMUL_GUARD=1 test_cuda_host_asan "$filter"
    ;;
  tsan)
    settings=(TSAN_OPTIONS=halt_on_error=1:exitcode=66)
    run "${settings[@]}" test_cuda_host_tsan '*'
    ((full)) && for seed in 1 2 3; do
      run "${settings[@]}" UPCYCLE_EMUL_SEED="$seed" test_cuda_host_tsan '*'
    done
    ;;
  *)
    echo "run_stages: unknown stage $stage" >&2
    exit 2
    ;;
esac
exit $status
