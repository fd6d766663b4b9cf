# The communicators of GPUs, twice from the same sources as kernels/cuda is: over NCCL, and for tests over the emulation's.

file(GLOB nccl_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/parallel/comm/*nccl*.cpp)

if(UPCYCLE_NVCC)
  find_path(NCCL_HEADERS nccl.h REQUIRED HINTS ${CUDAToolkit_INCLUDE_DIRS})
  add_library(comm_nccl STATIC ${nccl_sources})
  target_include_directories(comm_nccl SYSTEM PRIVATE ${NCCL_HEADERS})
  target_link_libraries(comm_nccl PUBLIC comm PRIVATE ${NCCL_LIBRARY} CUDA::cudart)
endif()

if(UPCYCLE_CUDA_HOST_TESTS)
  find_path(UPCYCLE_NCCL_HEADERS nccl.h HINTS ${UPCYCLE_CUDA_HEADERS} REQUIRED)
  add_library(nccl_emulation STATIC ${CMAKE_SOURCE_DIR}/tests/cuda_host/emulation/nccl.cpp
    ${CMAKE_SOURCE_DIR}/tests/cuda_host/emulation/nccl_operation.cpp)
  target_compile_options(nccl_emulation PRIVATE -Wall -Wextra)
  target_include_directories(nccl_emulation SYSTEM PUBLIC ${UPCYCLE_NCCL_HEADERS})
  target_link_libraries(nccl_emulation PUBLIC cuda_emulation PRIVATE MPI::MPI_CXX)
  add_library(comm_nccl_emulated STATIC ${nccl_sources})
  target_link_libraries(comm_nccl_emulated PUBLIC comm nccl_emulation)
  target_precompile_headers(comm_nccl_emulated REUSE_FROM headers)
endif()
