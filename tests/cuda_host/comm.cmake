# The communicators of GPUs, over the emulation's NCCL, on 1 to 4 ranks.
upcycle_mpi_tests(cuda_host/comm RANKS 1 2 3 4 LINKS kernels_cuda_emulated comm_nccl_emulated)
target_sources(test_cuda_host_comm PRIVATE $<TARGET_OBJECTS:nccl_mesh>)
foreach(ranks 1 2 3 4)
  set_tests_properties(test_cuda_host_comm_ranks${ranks} PROPERTIES
    ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};UPCYCLE_EMUL_GUARD=1")
endforeach()

add_executable(nccl_endings cuda_host/nccl_endings.cpp)
target_link_libraries(nccl_endings PRIVATE kernels_cuda_emulated comm_nccl_emulated MPI::MPI_CXX)
function(upcycle_nccl_ending)
  upcycle_mpi_ending(${ARGN} PROGRAM nccl_endings)
endfunction()
set(waited "rank [0-9] on [^ ]+ waited 2 s in world all_reduce #2 \\(16 bytes\\): ")
upcycle_nccl_ending(finish RANKS 2 SAYS "all 2 came" CODE 0)
upcycle_nccl_ending(late_last RANKS 2 SAYS "${waited}rank 1 on [^ ]+ did not arrive. rank 0 waiting.*world aborted" CODE 1)
upcycle_nccl_ending(late_first RANKS 3 SAYS "${waited}rank 0 on [^ ]+ did not arrive. ranks 1-2 waiting" CODE 1)
upcycle_nccl_ending(late_middle RANKS 3 SAYS "${waited}rank 1 on [^ ]+ did not arrive. ranks 0, 2 waiting" CODE 1)
upcycle_nccl_ending(non_blocking RANKS 2 CODE 5 ENVIRONMENT NCCL_COMM_BLOCKING=0
  SAYS "rank [01] on [^ ]+: NCCL: ncclCommInitRankConfig.*its communicators must block. unset NCCL_COMM_BLOCKING")
# NCCL connects ranks in the first call of a kind: it is not made before all ranks have arrived, so that missing ones can be named. And
# if the host is stuck inside NCCL, the monitor's thread ends the process.
upcycle_nccl_ending(late_first_call RANKS 3 CODE 1
  SAYS "rank [0-9] on [^ ]+ waited 2 s in world barrier #4 \\(0 bytes\\): rank 2 on [^ ]+ did not arrive. ranks 0-1 waiting")
upcycle_nccl_ending(inside RANKS 2 CODE 1 FULL
  SAYS "stands inside NCCL for [0-9]+ s .starting a collective.. its last collective: world all_reduce #2")
upcycle_nccl_ending(late_on_host RANKS 2 CODE 1
  SAYS "no rank is missing, but their calls differ. rank 0 waiting in world all_reduce #2. rank 1 waiting in world barrier #[0-9]+")
upcycle_nccl_ending(other_group RANKS 3 CODE 1
  SAYS "no rank is missing, but their calls differ. rank 2 waiting in dp barrier #1. ranks 0-1 waiting in world all_reduce #2")
upcycle_nccl_ending(other_count RANKS 2 SAYS "issued different collectives, counts, types or roots" CODE 7)
upcycle_nccl_ending(failed RANKS 3 CODE 1
  SAYS "rank 2 on [^ ]+: world all_reduce #2: NCCL: remote process exited or there was a network error.*is the network up.; ranks 0-2 waiting")
upcycle_nccl_ending(no_device RANKS 2 SAYS "rank 1 on [^ ]+: --device=cuda: there is no CUDA device 1; this host has 1" CODE 2)
# The monitor's thread sees it, after twice its own limit.
upcycle_nccl_ending(host_stands RANKS 2 CODE 1 FULL
  SAYS "world all_reduce #2 waits for other ranks for 19 s and more while the host stands in another call")
set_tests_properties(nccl_endings_host_stands_ranks2 PROPERTIES TIMEOUT 100)
