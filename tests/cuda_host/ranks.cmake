# The whole training step, upcycling and checkpoints on ranks that each have an emulated GPU.
# Host code that touches device memory crashes.
set(gpu_environment "UPCYCLE_EMUL_GUARD=1")

upcycle_mpi_tests(cuda_host/ranks RANKS 1 2 4 FULL_RANKS 1 2 4 LINKS test_rig kernels_cuda_emulated comm_nccl_emulated
  ENVIRONMENT ${gpu_environment})
target_sources(test_cuda_host_ranks PRIVATE $<TARGET_OBJECTS:cuda_backend> $<TARGET_OBJECTS:nccl_mesh> parity_mpi/parity.cpp
  parity_mpi/models.cpp)
add_test(NAME test_cuda_host_ranks_ranks6
         COMMAND ${UPCYCLE_MPIRUN} 6 $<TARGET_FILE:test_cuda_host_ranks> --gtest_filter=SixReplicas.*)
set_tests_properties(test_cuda_host_ranks_ranks6 PROPERTIES PROCESSORS 6 TIMEOUT ${UPCYCLE_MPI_TEST_SECONDS}
  ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${gpu_environment}")

# The CPU's own tests of ranks, on GPUs: upcycle_tests_on_gpus(folder RANKS ... FULL_RANKS ... FILTER gtest-filter), which
# names what the ordinary tier runs.
function(upcycle_tests_on_gpus folder)
  cmake_parse_arguments(ARG "" "FILTER" "RANKS;FULL_RANKS" ${ARGN})
  set(name test_cuda_host_${folder})
  add_executable(${name} $<TARGET_OBJECTS:mpi_main> $<TARGET_OBJECTS:cuda_backend> $<TARGET_OBJECTS:nccl_mesh>)
  target_link_libraries(${name} PRIVATE test_${folder}_files GTest::gtest kernels_cuda_emulated comm_nccl_emulated)
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}_ranks${ranks}
             COMMAND ${UPCYCLE_MPIRUN} ${ranks} $<TARGET_FILE:${name}> --gtest_filter=${ARG_FILTER})
    set_tests_properties(${name}_ranks${ranks} PROPERTIES PROCESSORS ${ranks} TIMEOUT ${UPCYCLE_MPI_TEST_SECONDS}
      ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${gpu_environment}")
  endforeach()
  foreach(ranks IN LISTS ARG_FULL_RANKS)
    add_test(NAME ${name}_full_ranks${ranks}
             COMMAND ${UPCYCLE_MPIRUN} ${ranks} $<TARGET_FILE:${name}> --gtest_filter=-Full*)
    set_tests_properties(${name}_full_ranks${ranks} PROPERTIES LABELS full PROCESSORS ${ranks} TIMEOUT 7200
      ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${gpu_environment}")
  endforeach()
endfunction()
upcycle_tests_on_gpus(train_mpi RANKS 2 FULL_RANKS 2 FILTER CheckReplicas.*:*SameLayoutIsBitwise*/Moe*)
upcycle_tests_on_gpus(parity_mpi FULL_RANKS 2 4)
upcycle_tests_on_gpus(serve_mpi RANKS 1 FULL_RANKS 1 2 4 FILTER *EveryLayout/Moe:Engine.*)
upcycle_tests_on_gpus(upcycle_mpi RANKS 2 FULL_RANKS 2 4 FILTER Ranks.*)

# On GPUs, one rank each: built wherever CUDA is, run by launch/gpu_check.sh.
if(UPCYCLE_NVCC)
  foreach(folder parity_mpi serve_mpi)
    add_executable(test_gpu_${folder} $<TARGET_OBJECTS:mpi_main> $<TARGET_OBJECTS:gpu_backend> $<TARGET_OBJECTS:nccl_mesh>)
    target_link_libraries(test_gpu_${folder} PRIVATE test_${folder}_files GTest::gtest kernels_cuda comm_nccl)
    if(UPCYCLE_CUDA_BESIDE)
      set_target_properties(test_gpu_${folder} PROPERTIES EXCLUDE_FROM_ALL ON)
    endif()
  endforeach()
endif()
