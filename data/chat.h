#pragma once
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace upcycle {

// A part of a conversation: the messages since the last answer, and the next answer.
struct ChatTurn {
  std::string text;
  std::size_t answer = 0;  // byte of the text where the answer begins; its end where there is none
  bool answered = false;   // then the end-of-document token follows
};

// The turns of {"messages": [{"role": ROLE, "content": TEXT}, ...]}, ROLE one of system, user, tool and assistant, in
// the template of Tulu's models (arXiv 2306.04751), which needs no token of its own:
//   <|system|>\nTEXT\n<|user|>\nTEXT\n<|assistant|>\nTEXT
// An answer is an assistant's TEXT; after it comes the end-of-document token, and the next turn begins as a text does.
// InputError, which begins with `where`, for other JSON and for a conversation without an answer.
std::vector<ChatTurn> chat_turns(const nlohmann::json& line, const std::string& where);

}  // namespace upcycle
