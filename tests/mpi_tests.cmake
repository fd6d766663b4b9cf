# upcycle_mpi_tests(folder RANKS 1 2 4 LINKS targets...): one executable of every .cpp below the folder, with a main that
# starts MPI, and one ctest entry a rank count. The ranks stay on this machine and its loopback; more ranks than cores
# must yield while they wait, or a barrier takes a scheduler's time slice.
set(UPCYCLE_MPI_TEST_SECONDS 300 CACHE STRING "ctest's limit for one rank count; a single test has 60 s (mpi_main.cpp)")

set(UPCYCLE_MPIRUN ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none --mca btl self,vader --mca oob_tcp_if_include lo
    ${MPIEXEC_NUMPROC_FLAG})
# Under the address sanitizer leaks are not counted here: Open MPI keeps memory until the process ends and unloads the
# modules that took it, so that no suppression can name them. Tests without MPI count them.
set(UPCYCLE_MPI_ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_mpi_yield_when_idle=1"
    "OMP_NUM_THREADS=1" "ASAN_OPTIONS=detect_leaks=0")

function(upcycle_mpi_tests folder)
  cmake_parse_arguments(ARG "" "" "RANKS;LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
  if(NOT sources)
    message(FATAL_ERROR "upcycle_mpi_tests: no sources in tests/${folder}")
  endif()
  string(REPLACE "/" "_" name test_${folder})
  add_executable(${name} ${sources} ${CMAKE_CURRENT_SOURCE_DIR}/mpi_main.cpp)
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} comm GTest::gtest MPI::MPI_CXX)
  target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <vector> <string> <fmt/core.h>)
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}_ranks${ranks}
             COMMAND ${UPCYCLE_MPIRUN} ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_ranks${ranks} PROPERTIES
      PROCESSORS ${ranks} TIMEOUT ${UPCYCLE_MPI_TEST_SECONDS} ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT}")
  endforeach()
endfunction()

# upcycle_mpi_ending(mode RANKS n SAYS regex CODE c [ENVIRONMENT NAME=value]): a job of mpi_endings.cpp says this, then
# ends with this exit code. (mpirun's own failures have small exit codes too, so the code alone shows nothing.)
add_executable(mpi_endings ${CMAKE_CURRENT_LIST_DIR}/mpi_endings.cpp)
target_link_libraries(mpi_endings PRIVATE comm)
function(upcycle_mpi_ending mode)
  cmake_parse_arguments(ARG "" "RANKS;SAYS;CODE;ENVIRONMENT" "" ${ARGN})
  set(name mpi_endings_${mode}_ranks${ARG_RANKS})
  list(JOIN UPCYCLE_MPIRUN " " mpirun)
  add_test(NAME ${name} COMMAND sh -c
    "${mpirun} ${ARG_RANKS} '$<TARGET_FILE:mpi_endings>' ${mode} 2>&1; echo exit code $?.")
  set_tests_properties(${name} PROPERTIES
    PASS_REGULAR_EXPRESSION "${ARG_SAYS}.*exit code ${ARG_CODE}\\."
    PROCESSORS ${ARG_RANKS} TIMEOUT 60 ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${ARG_ENVIRONMENT}")
endfunction()
upcycle_mpi_ending(finish RANKS 2 SAYS "all 2 came" CODE 0)
upcycle_mpi_ending(agreed RANKS 2 SAYS "rank 1 finds no file" CODE 2)
upcycle_mpi_ending(abort RANKS 2 SAYS "rank 1 aborts" CODE 7)
upcycle_mpi_ending(abort_job RANKS 2 SAYS "upcycle: a broken invariant" CODE 1)
upcycle_mpi_ending(unwind RANKS 2 SAYS "passes through the session" CODE 5)
upcycle_mpi_ending(mismatch RANKS 2 SAYS "rank 1 on .*: MPI error.*truncated" CODE 5)
# One rank where SLURM started two: srun without PMIx.
upcycle_mpi_ending(slurm RANKS 1 SAYS "SLURM_NTASKS=2 but MPI has 1 rank" CODE 2 ENVIRONMENT SLURM_NTASKS=2)
