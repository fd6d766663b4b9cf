#include "data/chat.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

const std::string& text_at(const nlohmann::json& message, const char* key, const std::string& where) {
  const auto found = message.is_object() ? message.find(key) : message.end();
  if (found == message.end() || !found->is_string())
    input_error("{}: found a message without a text at \"{}\", expected {{\"role\": ..., \"content\": TEXT}}", where,
                key);
  return found->get_ref<const std::string&>();
}

}  // namespace

std::vector<ChatTurn> chat_turns(const nlohmann::json& line, const std::string& where) {
  static constexpr std::array roles = {"system", "user", "tool", "assistant"};
  const auto messages = line.is_object() ? line.find("messages") : line.end();
  if (messages == line.end() || !messages->is_array())
    input_error(
        "{}: found no list at \"messages\", expected a conversation, {{\"messages\": [{{\"role\": ..., "
        "\"content\": TEXT}}, ...]}}",
        where);
  std::vector<ChatTurn> turns;
  ChatTurn turn;
  for (const nlohmann::json& message : *messages) {
    const std::string &role = text_at(message, "role", where), &content = text_at(message, "content", where);
    if (std::find(roles.begin(), roles.end(), role) == roles.end())
      input_error("{}: found the role {}, expected system, user, tool or assistant", where, quote_text(role));
    turn.text += "<|" + role + "|>\n";
    turn.answer = turn.text.size();
    turn.text += content;
    if (role == "assistant") {
      turn.answered = true;
      turns.push_back(std::move(turn));
      turn = {};
    } else {
      turn.text += '\n';
    }
  }
  if (turns.empty()) input_error("{}: found a conversation without a message of the assistant, expected one", where);
  if (!turn.text.empty()) {  // messages after the last answer
    turn.answer = turn.text.size();
    turns.push_back(std::move(turn));
  }
  return turns;
}

}  // namespace upcycle
