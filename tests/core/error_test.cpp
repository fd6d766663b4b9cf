#include "core/error.h"
#include "core/check.h"
#include "core/path_error.h"

namespace upcycle {
namespace {

std::string message_of(void (*thrower)()) {
  try {
    thrower();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Error, CheckNamesExpressionFileAndMessage) {
  const std::string what = message_of([] { UPCYCLE_CHECK(1 + 1 == 3, "sums to {}", 1 + 1); });
  EXPECT_TRUE(has(what, "1 + 1 == 3")) << what;
  EXPECT_TRUE(has(what, "sums to 2")) << what;
  EXPECT_TRUE(has(what, "error_test.cpp:")) << what;
}

TEST(Error, CheckThatHoldsEvaluatesItsConditionOnce) {
  int calls = 0;
  const auto next = [&calls] { return ++calls; };
  UPCYCLE_CHECK(next() == 1, "called {} times", calls);
  EXPECT_EQ(calls, 1);
}

TEST(Error, CheckIsOneStatement) {
  bool otherwise = false;
  if (true)
    UPCYCLE_CHECK(true, "holds");
  else
    otherwise = true;
  EXPECT_FALSE(otherwise);
}

TEST(Error, APathThatCanNotBeLookedAtIsBadInput) {
  const std::string name(300, 'b');  // longer than file systems take
  try {
    with_path_errors([&] { return std::filesystem::exists("/tmp/" + name); });
    ADD_FAILURE() << "no InputError";
  } catch (const InputError& e) {
    EXPECT_TRUE(has(e.what(), name + ": File name too long; ")) << e.what();
  }
}

TEST(Error, SaysWhereItHappenedOnceThatIsKnown) {
  set_error_origin(3, "node17");
  const std::string after = message_of([] { UPCYCLE_CHECK(false, "bad"); });
  EXPECT_TRUE(has(after, "rank 3")) << after;
  EXPECT_TRUE(has(after, "node17")) << after;
}

// The two kinds end differently, so neither may be caught as the other.
TEST(Error, InputErrorsAreNotErrors) {
  EXPECT_THROW(input_error("run.json: train.steps is {}, expected more than {}", -1, 0), InputError);
  try {
    input_error("run.json: train.steps is {}, expected more than {}", -1, 0);
  } catch (const Error&) {
    FAIL() << "caught as Error";
  } catch (const InputError& error) {
    EXPECT_STREQ(error.what(), "run.json: train.steps is -1, expected more than 0");
  }
}

}  // namespace
}  // namespace upcycle
