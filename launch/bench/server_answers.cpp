#include "launch/bench/server_answers.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/config/strict_json.h"

namespace upcycle {
namespace {

using nlohmann::json;

// Discarded where the text is none.
json parsed(std::string_view text) {
  if (nested_too_deeply(text)) return json(json::value_t::discarded);
  return json::parse(text, nullptr, false);
}

constexpr std::uint64_t count_max = std::uint64_t{1} << 40;  // sums of many stay below 2^63

bool is_count(const json& value) { return value.is_number_unsigned() && value.get<std::uint64_t>() <= count_max; }

// -1 where the server does not say; none where what it says is no count.
std::optional<std::int64_t> count_of(const json& usage, const char* key) {
  const auto found = usage.find(key);
  if (found == usage.end() || found->is_null()) return -1;
  if (!is_count(*found)) return {};
  return found->get<std::int64_t>();
}

bool is_one_line(const std::string& name) {
  return !name.empty() && name.size() <= 1000 &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; });
}

}  // namespace

std::string excerpt(std::string_view text) {
  std::string line(text.substr(0, 120));
  for (char& c : line)
    if (static_cast<unsigned char>(c) < ' ' || static_cast<unsigned char>(c) > '~') c = ' ';
  return line;
}

RemoteModel model_in_list(const std::string& answer, const std::string& wanted) {
  const json j = parsed(answer);
  const auto list = j.is_object() ? j.find("data") : j.end();
  if (list == j.end() || !list->is_array()) return {};
  for (const json& m : *list) {
    if (!m.is_object() || !m.contains("id") || !m["id"].is_string()) continue;
    const auto name = m["id"].get<std::string>();
    if (!is_one_line(name) || (!wanted.empty() && name != wanted)) continue;
    const auto length = m.find("max_model_len");
    return {name, length != m.end() && is_count(*length) ? length->get<std::int64_t>() : 0};
  }
  return {};
}

bool CompletionStream::feed(std::string_view bytes) {
  if (!error_.empty()) return false;
  const bool is_stream = events_.feed(bytes, [&](std::string_view message) {
    if (error_.empty()) read(message);
  });
  if (!is_stream && error_.empty()) error_ = "the answer is no stream of events: " + excerpt(bytes);
  return error_.empty();
}

void CompletionStream::read(std::string_view message) {
  if (message == "[DONE]") {
    finished_ = true;
    return;
  }
  if (++messages_ > most_messages_) {
    error_ = fmt::format("the stream has more than {} messages, far more than the tokens that were asked for",
                         most_messages_);
    return;
  }
  const json j = parsed(message);
  const auto refuse = [&](const char* what) { error_ = fmt::format("the stream has {}: {}", what, excerpt(message)); };
  if (!j.is_object()) return refuse("a message that is no JSON object");
  if (j.contains("error") && !j["error"].is_null()) {
    error_ = "the server says: " + excerpt(j["error"].dump());
    return;
  }
  if (const auto usage = j.find("usage"); usage != j.end() && usage->is_object()) {
    const auto prompt = count_of(*usage, "prompt_tokens"), output = count_of(*usage, "completion_tokens");
    if (!prompt || !output) return refuse("a message that is no completion, for its usage has no counts of tokens");
    prompt_tokens_ = *prompt;
    output_tokens_ = *output;
  }
  const auto choices = j.find("choices");
  if (choices == j.end() || !choices->is_array()) return refuse("a message without choices");
  if (choices->empty()) return;
  const json& choice = (*choices)[0];
  if (!choice.is_object() || !choice.contains("text") || !choice["text"].is_string())
    return refuse("a choice without text");
  const bool last = choice.contains("finish_reason") && !choice["finish_reason"].is_null();
  finished_ = finished_ || last;
  // A token may add no text yet (a part of a character); a message that only ends the stream is none.
  if (last && choice["text"].get_ref<const std::string&>().empty()) return;
  ++tokens_;
}

}  // namespace upcycle
