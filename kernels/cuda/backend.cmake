# The CUDA backend, built twice from the same sources: for a GPU (nvcc), and for tests, where its kernels run on the CPU
# and tests/cuda_host/emulation replaces the CUDA libraries.

# launch/install.sh fetches CUDA only if the machine's own is incomplete: so prefer its folder (NCCL may be in /usr).
find_path(UPCYCLE_CUDA_HEADERS cuda_bf16.h HINTS ${CMAKE_SOURCE_DIR}/build/deps/cuda/include /usr/local/cuda/include)
find_path(UPCYCLE_NCCL_HEADERS nccl.h HINTS ${UPCYCLE_CUDA_HEADERS})
if(UPCYCLE_CUDA_HEADERS AND UPCYCLE_NCCL_HEADERS)
  set(found_cuda_headers ON)
else()
  set(found_cuda_headers OFF)
  message(STATUS "CUDA headers: not found: the CUDA backend is not tested (launch/install.sh cuda)")
endif()
# UPCYCLE_CUDA_HOST_TESTS: test the CUDA backend on the CPU. The default is not cached: headers may be installed later.
if(NOT DEFINED UPCYCLE_CUDA_HOST_TESTS)
  set(UPCYCLE_CUDA_HOST_TESTS ${found_cuda_headers})
endif()
if(UPCYCLE_CUDA_HOST_TESTS AND NOT found_cuda_headers)
  message(FATAL_ERROR "UPCYCLE_CUDA_HOST_TESTS needs CUDA's headers: set UPCYCLE_CUDA_HEADERS and UPCYCLE_NCCL_HEADERS to the folders of cuda_bf16.h and nccl.h")
endif()

# upcycle_gpu_backend(name emulated|real LINKS libraries...): a library of kernels/cuda.
function(upcycle_gpu_backend name runtime)
  cmake_parse_arguments(ARG "" "" "LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cpp)
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
  if(runtime STREQUAL "emulated")
    # CMake gives a file one language per build, CUDA for .cu files: so compile each through a .cpp file that includes
    # it.
    foreach(kernel ${kernels})
      get_filename_component(stem ${kernel} NAME)
      set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/${name}/${stem}.cpp)
      file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"kernels/cuda/${stem}\"\n" @ONLY)
      list(APPEND sources ${wrapper})
    endforeach()
    add_library(${name} STATIC ${sources})
    # CUDA kernels read memory as other types, and bits of bf16 as bytes; #pragma unroll is nvcc's.
    target_compile_options(${name} PRIVATE -fno-strict-aliasing -Wno-unknown-pragmas -Wno-class-memaccess)
  else()
    add_library(${name} STATIC ${sources} ${kernels})
    # nvcc's front end does not evaluate fmt 9's consteval constructor: format strings are checked by the emulated build.
    target_compile_definitions(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=;FMT_USE_CONSTEXPR=1>")
    # No kernel may spill registers (see also tests/cuda_host/check_cubins.sh).
    set(strict -Xptxas=-warn-spills,-warn-lmem-usage -Xcompiler=-Wall,-Wextra)
    if(UPCYCLE_WERROR)
      list(APPEND strict -Xptxas=-Werror -Werror=all-warnings -Xcompiler=-Werror)
    endif()
    target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${strict}>")
  endif()
  target_link_libraries(${name} PUBLIC kernels ${ARG_LINKS})
endfunction()

if(UPCYCLE_NVCC)
  find_package(CUDAToolkit REQUIRED)
  find_library(NCCL_LIBRARY nccl REQUIRED HINTS ${CUDAToolkit_LIBRARY_DIR})
  upcycle_gpu_backend(kernels_cuda real LINKS CUDA::cudart CUDA::cublasLt ${NCCL_LIBRARY})
endif()

# upcycle_emulated_backend(suffix sanitizers): the emulation and kernels_cuda_emulated on it. The sanitizers apply to
# these only, so that one build tree has them beside the plain ones (UPCYCLE_SANITIZE applies to everything).
function(upcycle_emulated_backend suffix sanitizers)
  set(emulation ${CMAKE_SOURCE_DIR}/tests/cuda_host/emulation)
  # It switches stacks, so no sanitizer may instrument it (it tells them of its fibers instead): it does not link `options`.
  add_library(cuda_emulation${suffix} STATIC ${emulation}/scheduler.cpp ${emulation}/fibers.cpp ${emulation}/barriers.cpp
    ${emulation}/block_memory.cpp ${emulation}/reports.cpp ${emulation}/memory.cpp ${emulation}/streams.cpp
    ${emulation}/runtime.cpp ${emulation}/cublaslt.cpp)
  target_compile_options(cuda_emulation${suffix} PRIVATE -Wall -Wextra -Wno-restrict -fno-strict-aliasing)
  target_compile_definitions(cuda_emulation${suffix} PUBLIC UPCYCLE_GPU_EMULATED="tests/cuda_host/emulation/device.h")
  target_include_directories(cuda_emulation${suffix} PUBLIC ${CMAKE_SOURCE_DIR})
  target_include_directories(cuda_emulation${suffix} SYSTEM PUBLIC ${UPCYCLE_CUDA_HEADERS})
  target_link_libraries(cuda_emulation${suffix} PUBLIC Threads::Threads)
  if("${sanitizers},${UPCYCLE_SANITIZE}" MATCHES "address")
    target_compile_definitions(cuda_emulation${suffix} PRIVATE UPCYCLE_EMUL_ASAN)
  elseif("${sanitizers},${UPCYCLE_SANITIZE}" MATCHES "thread")
    target_compile_definitions(cuda_emulation${suffix} PRIVATE UPCYCLE_EMUL_TSAN)
  endif()
  # What the emulation does to memory on a kernel's behalf is instrumented as the kernel is.
  add_library(cuda_emulation_accesses${suffix} STATIC ${emulation}/device_instr.cpp)
  target_link_libraries(cuda_emulation_accesses${suffix} PRIVATE options PUBLIC cuda_emulation${suffix})
  target_link_libraries(cuda_emulation${suffix} PUBLIC cuda_emulation_accesses${suffix})
  upcycle_gpu_backend(kernels_cuda_emulated${suffix} emulated LINKS cuda_emulation${suffix})

  if(sanitizers)
    add_library(sanitized${suffix} INTERFACE)
    target_compile_options(sanitized${suffix} INTERFACE -O1 -g1 -fsanitize=${sanitizers} -fno-sanitize-recover=all
      -fno-omit-frame-pointer -Wno-tsan)
    target_link_options(sanitized${suffix} INTERFACE -fsanitize=${sanitizers})
    target_link_libraries(cuda_emulation_accesses${suffix} PRIVATE sanitized${suffix})
    target_link_libraries(kernels_cuda_emulated${suffix} PUBLIC sanitized${suffix})
    set_target_properties(cuda_emulation${suffix} cuda_emulation_accesses${suffix} kernels_cuda_emulated${suffix}
      PROPERTIES EXCLUDE_FROM_ALL ON)
  else()
    target_precompile_headers(kernels_cuda_emulated REUSE_FROM headers)
  endif()
endfunction()

if(UPCYCLE_CUDA_HOST_TESTS)
  upcycle_emulated_backend("" "")
  if(BUILD_TESTING AND NOT UPCYCLE_SANITIZE)
    upcycle_emulated_backend(_asan address,undefined)
    upcycle_emulated_backend(_tsan thread)
  endif()
endif()
