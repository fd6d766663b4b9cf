# What launch/gpu_check.sh runs on a GPU, together in the build folder; in a bundle (launch/gpu_bundle.sh) together in
# programs/, relative to which libraries are found. An RPATH, not a RUNPATH: it also applies to the libraries' own
# dependencies, and comes before LD_LIBRARY_PATH.
set(gpu_programs upcycle_program test_gpu test_gpu_train test_gpu_parity_mpi
  test_gpu_serve_mpi)
foreach(program ${gpu_programs})
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
    INSTALL_RPATH "$ORIGIN/../lib:$ORIGIN/../cuda")
  install(TARGETS ${program} RUNTIME DESTINATION programs COMPONENT gpu_bundle)
endforeach()
if(TARGET nvtx_recorder)
  list(APPEND gpu_programs nvtx_recorder)
  set_target_properties(nvtx_recorder PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  install(TARGETS nvtx_recorder LIBRARY DESTINATION programs COMPONENT gpu_bundle)
endif()
add_custom_target(gpu_programs DEPENDS ${gpu_programs})
