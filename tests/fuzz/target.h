#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/error.h"

// A fuzz target gives one parser an input of any bytes. It must end in what was parsed or in an InputError of one line;
// anything else is a bug: another exception, a crash, what the sanitizers find.
//
// Each file NAME.cpp here ends with UPCYCLE_FUZZ_TARGET(NAME, function). Built by clang (tests/fuzz/run.sh) it is a
// program of libFuzzer's; built with the tests, it is among the targets that replay_test.cpp gives the inputs of
// corpus/NAME.
namespace upcycle::fuzz {

using Target = void (*)(std::string_view input);
bool add_target(const char* name, Target target);

// Runs what may refuse its input.
template <class Work>
void may_refuse(const Work& work) {
  try {
    work();
  } catch (const InputError& e) {
    const std::string_view message = e.what();
    const auto control = [](unsigned char c) { return c < ' ' || c == 0x7f; };
    if (message.empty() || message.size() > 4000 || std::any_of(message.begin(), message.end(), control))
      throw std::logic_error("a message that is not one line of text: " + std::string(message));
  }
}

// A file that holds `bytes`, in memory; valid until the next call.
std::string file_with(std::string_view bytes);

}  // namespace upcycle::fuzz

#ifdef UPCYCLE_FUZZ
#define UPCYCLE_FUZZ_TARGET(name, target)                                             \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);  \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    target(std::string_view(reinterpret_cast<const char*>(data), size)); /* NOLINT */ \
    return 0;                                                                         \
  }
#else
#define UPCYCLE_FUZZ_TARGET(name, target) \
  [[maybe_unused]] static const bool added_##name = upcycle::fuzz::add_target(#name, target);
#endif
