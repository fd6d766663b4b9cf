#pragma once
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace upcycle {

// The one line of the InputError that `work` throws; the test fails where it throws none, or more than one line.
template <class Work>
std::string input_error_of(const Work& work) {
  try {
    work();
  } catch (const InputError& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "no InputError";
  return "";
}

}  // namespace upcycle
