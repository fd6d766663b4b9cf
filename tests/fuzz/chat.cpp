#include "data/chat.h"

#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

void one(std::string_view input) {
  if (nested_too_deeply(input)) return;
  const nlohmann::json line = nlohmann::json::parse(input, nullptr, false);
  if (line.is_discarded()) return;
  fuzz::may_refuse([&] {
    for (const ChatTurn& turn : chat_turns(line, "x.jsonl:1"))
      if (turn.answer > turn.text.size()) throw std::logic_error("an answer outside of the text");
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(chat, upcycle::one)
