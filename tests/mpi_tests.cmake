# upcycle_mpi_tests(folder RANKS 1 2 4 LINKS targets...): one executable of every .cpp below the folder, with a main that
# starts MPI, and one ctest entry per rank count. The ranks stay on this machine and its loopback; more ranks than cores
# must yield while they wait, or a barrier takes a scheduler's time slice. Suites named Full... are left to the entries
# of FULL_RANKS, labelled full, which run everything. The files' objects are a library, ${name}_files: they do not know
# the backend, so that tests/cuda_host can link them with another one. ENVIRONMENT adds to that of every entry. BF16: the
# tests that depend on products of bf16, as a gtest filter; two ranks run them again as an older processor. FEW: those
# that run on few ranks, a filter too: eight are left to the full tier, as the ranks share a machine's cores.
set(UPCYCLE_MPI_TEST_SECONDS 900 CACHE STRING "ctest's limit for one rank count; a single test has 120 s (mpi_main.cpp)")

set(UPCYCLE_MPIRUN ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none --mca btl self,vader --mca oob_tcp_if_include lo
    ${MPIEXEC_NUMPROC_FLAG})
# Under the address sanitizer leaks are not counted here: Open MPI keeps memory until the process ends and unloads the
# modules that took it, so that no suppression can name them. Tests without MPI count them.
set(UPCYCLE_MPI_ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_mpi_yield_when_idle=1"
    "OMP_NUM_THREADS=1" "ASAN_OPTIONS=detect_leaks=0")

# The main of all of them, and the mesh that ranks without NCCL take.
add_library(mpi_main OBJECT mpi_main.cpp)
target_link_libraries(mpi_main PRIVATE comm MPI::MPI_CXX test_options)
add_library(mpi_mesh STATIC mpi_mesh.cpp)
target_link_libraries(mpi_mesh PUBLIC comm PRIVATE test_options)
foreach(name mpi_main mpi_mesh)
  target_precompile_headers(${name} REUSE_FROM test_headers)
endforeach()

function(upcycle_mpi_tests folder)
  cmake_parse_arguments(ARG "" "BF16;FEW" "RANKS;FULL_RANKS;LINKS;ENVIRONMENT" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
  if(NOT sources)
    message(FATAL_ERROR "upcycle_mpi_tests: no sources in tests/${folder}")
  endif()
  string(REPLACE "/" "_" name test_${folder})
  add_library(${name}_files OBJECT ${sources})
  target_link_libraries(${name}_files PUBLIC ${ARG_LINKS} comm MPI::MPI_CXX PRIVATE test_options)
  target_precompile_headers(${name}_files REUSE_FROM test_headers)
  add_executable(${name} $<TARGET_OBJECTS:mpi_main>)
  target_link_libraries(${name} PRIVATE ${name}_files GTest::gtest mpi_mesh)
  foreach(ranks IN LISTS ARG_RANKS)
    set(later "Full*")
    if(ARG_FEW AND ranks GREATER_EQUAL 8)
      string(APPEND later ":${ARG_FEW}")
    endif()
    add_test(NAME ${name}_ranks${ranks}
             COMMAND ${UPCYCLE_MPIRUN} ${ranks} $<TARGET_FILE:${name}> --gtest_filter=-${later})
    set_tests_properties(${name}_ranks${ranks} PROPERTIES
      PROCESSORS ${ranks} TIMEOUT ${UPCYCLE_MPI_TEST_SECONDS} ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${ARG_ENVIRONMENT}")
  endforeach()
  if(ARG_BF16 AND UPCYCLE_TESTS_AS_OLDER)
    add_test(NAME ${name}_as_avx2_ranks2 COMMAND ${UPCYCLE_MPIRUN} 2 $<TARGET_FILE:${name}> --gtest_filter=${ARG_BF16})
    set_tests_properties(${name}_as_avx2_ranks2 PROPERTIES LABELS bf16 PROCESSORS 2 TIMEOUT ${UPCYCLE_MPI_TEST_SECONDS}
      ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${UPCYCLE_OLDER_PROCESSOR};${ARG_ENVIRONMENT}")
  endif()
  foreach(ranks IN LISTS ARG_FULL_RANKS)
    add_test(NAME ${name}_full_ranks${ranks}
             COMMAND ${UPCYCLE_MPIRUN} ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_full_ranks${ranks} PROPERTIES LABELS full
      PROCESSORS ${ranks} TIMEOUT 7200 ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${ARG_ENVIRONMENT}")
  endforeach()
endfunction()

# How jobs end is not asked under the thread sanitizer (launch/test.sh --full=tsan).
if(UPCYCLE_SANITIZE STREQUAL "thread")
  return()
endif()

# upcycle_mpi_ending(mode RANKS n SAYS regex CODE c [ENVIRONMENT NAME=value] [THEN command] [FULL] [PROGRAM target]): a
# job of mpi_endings.cpp, or of another program, says this, then ends with this exit code. (mpirun's own failures have
# small exit codes too, so the code alone shows nothing.) THEN runs before the exit code is printed, with what was said in
# the file $OUT. (No semicolons in them: CMake would make them lists.) They mostly wait: as one process to ctest.
add_executable(mpi_endings ${CMAKE_CURRENT_LIST_DIR}/mpi_endings.cpp)
target_link_libraries(mpi_endings PRIVATE comm MPI::MPI_CXX)
function(upcycle_mpi_ending mode)
  cmake_parse_arguments(ARG "FULL" "RANKS;SAYS;CODE;ENVIRONMENT;THEN;PROGRAM" "" ${ARGN})
  if(NOT ARG_PROGRAM)
    set(ARG_PROGRAM mpi_endings)
  endif()
  set(name ${ARG_PROGRAM}_${mode}_ranks${ARG_RANKS})
  list(JOIN UPCYCLE_MPIRUN " " mpirun)
  add_test(NAME ${name} COMMAND sh -c
    "OUT=${name}.txt; ${mpirun} ${ARG_RANKS} '$<TARGET_FILE:${ARG_PROGRAM}>' ${mode} >$OUT 2>&1; code=$?; cat $OUT
     ${ARG_THEN}
     echo exit code $code.")
  set_tests_properties(${name} PROPERTIES
    PASS_REGULAR_EXPRESSION "${ARG_SAYS}.*exit code ${ARG_CODE}\\."
    TIMEOUT 60 ENVIRONMENT "${UPCYCLE_MPI_ENVIRONMENT};${ARG_ENVIRONMENT}")
  if(ARG_FULL)
    set_tests_properties(${name} PROPERTIES LABELS full)
  endif()
endfunction()
upcycle_mpi_ending(finish RANKS 2 SAYS "all 2 came" CODE 0)
upcycle_mpi_ending(agreed RANKS 2 SAYS "rank 1 finds no file" CODE 2)
upcycle_mpi_ending(abort RANKS 2 SAYS "rank 1 aborts" CODE 7)
upcycle_mpi_ending(abort_job RANKS 2 SAYS "upcycle: a broken invariant" CODE 1)
upcycle_mpi_ending(unwind RANKS 2 SAYS "passes through the session" CODE 5)
upcycle_mpi_ending(mismatch RANKS 2 SAYS "rank 1 on .*: MPI error.*truncated.*in world all_to_all_v #1" CODE 5)
# One rank where SLURM started two: srun without PMIx.
upcycle_mpi_ending(slurm RANKS 1 SAYS "SLURM_NTASKS=2 but MPI has 1 rank" CODE 2 ENVIRONMENT SLURM_NTASKS=2)
# Waiting too long: the summary names who did not arrive, whichever rank it is, and where the others wait.
set(waited "rank [0-9] on [^ ]+ waited 2 s in world barrier #2 \\(0 bytes\\): ")
upcycle_mpi_ending(late_last RANKS 2 SAYS "${waited}rank 1 on [^ ]+ did not arrive. rank 0 waiting" CODE 1)
# The report beside it: each rank's state, last collectives and stack, of the missing one too, whose main thread answers
# although it never waits; and whichever rank writes it.
set(last_call "last collective: world barrier #1, 0 bytes, started [0-9.]+ s ago, ended after")
upcycle_mpi_ending(report_last RANKS 3 CODE 1
  SAYS "rank 2 on [^ ]+: process [0-9]+ running. starting, for [^\n]*${last_call}.*== rank 0.*world barrier #2, 0 bytes, started [0-9.]+ s ago, not ended.*TransferQueue::finish.* in mpi_endings.*== rank 2.*pause[^\n]* in libc.*. report: above")
upcycle_mpi_ending(report_first RANKS 3 CODE 1
  SAYS "rank 0 on [^ ]+: process [0-9]+ running. starting, for [^\n]*${last_call}.*== rank 0.*pause[^\n]* in libc.*== rank 2.*TransferQueue::finish.*. report: above")
upcycle_mpi_ending(report_file RANKS 3 CODE 1 THEN "cat report_file/timeout_report.txt && rm -r report_file"
  SAYS "upcycle: ${waited}rank 1 on [^ ]+ did not arrive[^\n]*. report: report_file/timeout_report.txt.*rank 1 on [^ ]+: process [0-9]+ running.*pause[^\n]* in libc")
upcycle_mpi_ending(late_first RANKS 3 SAYS "${waited}rank 0 on [^ ]+ did not arrive. ranks 1-2 waiting" CODE 1)
upcycle_mpi_ending(late_middle RANKS 3 SAYS "${waited}rank 1 on [^ ]+ did not arrive. ranks 0, 2 waiting" CODE 1)
upcycle_mpi_ending(late_ends RANKS 4 SAYS "world barrier #2, and neither rank 0 nor rank 3 answers" CODE 1)
upcycle_mpi_ending(differ RANKS 3 CODE 1
  SAYS "no rank is missing, but their calls differ. rank 2 waiting in dp barrier #1. ranks 0-1 waiting in world barrier #2")
# Time in which a waiting rank was itself suspended does not count.
upcycle_mpi_ending(suspended RANKS 2 SAYS "all 2 came" CODE 0)
# The time-out measures silence: a rank that works on files (for 3.5 s, the time-out is 1 s) is waited for, whichever it
# is; one that falls silent, or is lost beside it, still ends the run with its name.
upcycle_mpi_ending(works RANKS 2 SAYS "all 2 came" CODE 0)
upcycle_mpi_ending(works_first RANKS 3 SAYS "all 3 came" CODE 0)
upcycle_mpi_ending(works_middle RANKS 3 SAYS "all 3 came" CODE 0)
upcycle_mpi_ending(works_ends RANKS 4 SAYS "all 4 came" CODE 0)
upcycle_mpi_ending(falls_silent RANKS 3 SAYS "waited [3-8] s in world barrier #2 .0 bytes.: rank 2 on [^ ]+ did not arrive" CODE 1)
upcycle_mpi_ending(works_beside_lost RANKS 3 CODE 1
  SAYS "waited [1-9] s in world barrier #2 .0 bytes.: rank 1 on [^ ]+ did not arrive. rank 0 still at work on files")
# A stopped process does not see that the job ends: the launcher must kill it.
upcycle_mpi_ending(stopped RANKS 3 SAYS "rank 1 on [^ ]+: process [0-9]+ stopped .state T in /proc/PID/stat.*stack: none.*upcycle: ${waited}rank 1 on [^ ]+ did not arrive.*process is gone" CODE 1
  THEN "kill -0 $(sed -n 's/^process \\([0-9]*\\) stops.*/\\1/p' $OUT) 2>$OUT.kill || grep -q 'No such process' $OUT.kill && echo process is gone")
# The main thread is stuck inside the library: a thread ends the process. If MPI_Abort hangs, an alarm does.
upcycle_mpi_ending(inside RANKS 2 SAYS "Stuck::poll.*upcycle: rank [01] on [^ ]+: stands inside MPI for [0-9]+ s .waiting in a collective.. its last collective: dp barrier #1" CODE 1 FULL)
upcycle_mpi_ending(abort_hangs RANKS 2 SAYS "${waited}rank 1 on [^ ]+ did not arrive" CODE 1 FULL)
