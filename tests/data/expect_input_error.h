#pragma once
#include <initializer_list>
#include <string>

#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {

// Expects `action` to throw InputError, of one line that holds every one of `parts`.
template <class Action>
void expect_input_error(Action&& action, std::initializer_list<const char*> parts) {
  const std::string text = input_error_of(action);
  EXPECT_EQ(text.find('\n'), text.npos) << text;
  for (const char* part : parts) EXPECT_TRUE(contains(text, part));
}

}  // namespace upcycle
