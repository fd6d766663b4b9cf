#include "launch/bench/event_stream.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

TEST(EventStream, MessagesAreFoundInAnyPieces) {
  const std::string text = ": hello\ndata: one\r\n\r\nevent: x\ndata:two\n\ndata: {\"a\": \"b: c\"}\n";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    EventStream stream;
    std::vector<std::string> messages;
    for (std::size_t at = 0; at < text.size(); at += piece)
      EXPECT_TRUE(
          stream.feed(std::string_view(text).substr(at, piece), [&](std::string_view m) { messages.emplace_back(m); }));
    EXPECT_EQ(messages, (std::vector<std::string>{"one", "two", "{\"a\": \"b: c\"}"}));
  }
  EventStream stream;
  EXPECT_FALSE(stream.feed("data: x\n<html>\n", [](std::string_view) {}));
  EXPECT_FALSE(stream.feed("data: x\n", [](std::string_view) { ADD_FAILURE(); }));
}

}  // namespace
}  // namespace upcycle
