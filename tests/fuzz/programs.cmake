# A program of libFuzzer's for each target (tests/fuzz/run.sh); clang alone has it. Each links as little as it can, so that
# a change is fuzzed after a minute.
# upcycle_fuzz(name LINKS targets... [WITH sources...])
function(upcycle_fuzz name)
  cmake_parse_arguments(ARG "" "" "LINKS;WITH" ${ARGN})
  list(TRANSFORM ARG_WITH PREPEND ${CMAKE_SOURCE_DIR}/)
  add_executable(fuzz_${name} EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/fuzz/${name}.cpp ${ARG_WITH})
  target_compile_definitions(fuzz_${name} PRIVATE UPCYCLE_FUZZ)
  target_link_libraries(fuzz_${name} PRIVATE text_options ${ARG_LINKS})
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  set_property(GLOBAL APPEND PROPERTY UPCYCLE_FUZZ_TARGETS fuzz_${name})
endfunction()

set(in_memory tests/fuzz/file_with.cpp)
upcycle_fuzz(chat LINKS data)
upcycle_fuzz(config LINKS core)
upcycle_fuzz(hdf5 LINKS data WITH ${in_memory})
upcycle_fuzz(hf_config LINKS models)
upcycle_fuzz(latest LINKS checkpoint)
upcycle_fuzz(machine LINKS data WITH parallel/serve/machine.cpp)
upcycle_fuzz(manifest LINKS checkpoint)
upcycle_fuzz(metrics LINKS data model WITH launch/run_curves.cpp launch/file_lines.cpp)
upcycle_fuzz(requests LINKS data WITH launch/bench/request_file.cpp)
upcycle_fuzz(safetensors_header LINKS data)
upcycle_fuzz(sentencepiece_table LINKS data)
upcycle_fuzz(server_answers LINKS core WITH launch/bench/server_answers.cpp launch/bench/event_stream.cpp)
upcycle_fuzz(study LINKS checkpoint
  WITH parallel/serve/machine.cpp launch/study/read_study.cpp launch/study/json_fields.cpp launch/study/grid.cpp
  launch/study/study.cpp launch/study/arm_model.cpp
  parallel/upcycle/rules.cpp)
upcycle_fuzz(token_index LINKS data)
upcycle_fuzz(tokenizer LINKS data WITH ${in_memory})
upcycle_fuzz(weight_map LINKS data)

get_property(targets GLOBAL PROPERTY UPCYCLE_FUZZ_TARGETS)
add_custom_target(fuzz DEPENDS ${targets})
