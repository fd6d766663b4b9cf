#include "launch/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "launch/file_lines.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

[[noreturn]] void refuse(const std::string& where, const std::string& key, const Json& found,
                         const std::string& expected) {
  input_error("{}: {}: found {}, expected {}", where, key, found.dump().substr(0, 40), expected);
}

std::int64_t integer(const std::string& where, const std::string& key, const Json& value) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > 0x1p53)
    refuse(where, key, value, "an integer, 0 or more");
  return value.get<std::int64_t>();
}

double number(const std::string& where, const std::string& key, const Json& value) {
  if (!value.is_number()) refuse(where, key, value, "a number");
  return value.get<double>();
}

std::vector<std::int32_t> ids_of(const std::string& where, const std::string& key, const Json& list) {
  std::vector<std::int32_t> ids;
  for (const Json& id : list) {
    const std::string place = fmt::format("{}[{}]", key, ids.size());
    const std::int64_t i = integer(where, place, id);
    if (i > INT32_MAX) refuse(where, place, id, "a token id");
    ids.push_back(static_cast<std::int32_t>(i));
  }
  return ids;
}

void set_prompt(Prompt& p, const Json& value) {
  if (value.is_string()) {
    p.text = value.get<std::string>();
    return;
  }
  if (!value.is_array() || value.empty()) refuse(p.where, "prompt", value, "a text or a list of token ids");
  p.ids = ids_of(p.where, "prompt", value);
}

void set(Prompt& p, const std::string& key, const Json& value) {
  static const std::vector<std::string> keys = {"prompt", "max_tokens", "temperature",   "top_k",
                                                "top_p",  "seed",       "stop_token_ids"};
  if (key == "prompt") {
    set_prompt(p, value);
  } else if (key == "max_tokens") {
    p.max_tokens = integer(p.where, key, value);
    if (p.max_tokens < 1) refuse(p.where, key, value, "1 or more");
  } else if (key == "temperature") {
    p.sampling.temperature = number(p.where, key, value);
  } else if (key == "top_k") {
    p.sampling.top_k = integer(p.where, key, value);
  } else if (key == "top_p") {
    p.sampling.top_p = number(p.where, key, value);
  } else if (key == "seed") {
    p.sampling.seed = static_cast<std::uint64_t>(integer(p.where, key, value));
  } else if (key == "stop_token_ids") {
    if (!value.is_array()) refuse(p.where, key, value, "a list of token ids");
    p.stop_token_ids = ids_of(p.where, key, value);
  } else {
    const std::string near = nearest(key, keys);
    input_error("{}: unknown key {}{}; expected {}", p.where, quote_text(key),
                near.empty() ? "" : fmt::format(", did you mean '{}'?", near), fmt::join(keys, ", "));
  }
}

Prompt prompt_of(const std::string& line, Prompt p, bool json) {
  if (!json) {
    p.text = line;
    return p;
  }
  const Json object = parse_strict_json(line, p.where);
  if (!object.is_object() || !object.contains("prompt"))
    input_error("{}: found no object with a \"prompt\", expected {{\"prompt\": \"...\"}}", p.where);
  for (const auto& [key, value] : object.items()) set(p, key, value);
  check_sampling(p.where, p);
  return p;
}

std::vector<std::int32_t> tokens_of(const Prompt& p, const ModelConfig& model, const Tokenizer* tokenizer) {
  for (std::size_t i = 0; i < p.ids.size(); ++i)
    if (p.ids[i] >= model.vocab_size)
      input_error("{}: prompt[{}]: found {}, expected a token id from 0 to {}; is this another model's vocabulary?",
                  p.where, i, p.ids[i], model.vocab_size - 1);
  if (!p.ids.empty()) return p.ids;
  std::vector<std::int32_t> tokens;
  const std::int64_t begins = model.bos_token_id >= 0 ? model.bos_token_id : tokenizer->eod_id();
  if (begins >= 0) tokens.push_back(static_cast<std::int32_t>(begins));
  const std::vector<std::int32_t> text = tokenizer->encode(p.text);
  tokens.insert(tokens.end(), text.begin(), text.end());
  if (tokens.empty())
    input_error("{}: prompt: found no text, expected some: this model has no token to begin with", p.where);
  return tokens;
}

}  // namespace

void check_sampling(const std::string& where, const Prompt& p) {
  const SamplingOptions& s = p.sampling;
  if (!(s.temperature >= 0)) refuse(where, "temperature", s.temperature, "0 (greedy) or more");
  if (s.top_k < 0) refuse(where, "top_k", s.top_k, "0 (all) or more");
  if (!(s.top_p > 0 && s.top_p <= 1)) refuse(where, "top_p", s.top_p, "more than 0, at most 1");
}

std::vector<Prompt> read_prompts(const std::string& file, const Prompt& defaults) {
  const bool json = file.ends_with(".jsonl");
  std::vector<Prompt> prompts;
  for_each_line(file, "prompts", [&](const std::string& where, const std::string& line) {
    Prompt p = defaults;
    p.where = where;
    p.sampling.seed += prompts.size();
    prompts.push_back(prompt_of(line, std::move(p), json));
  });
  return prompts;
}

std::vector<Request> make_requests(const std::vector<Prompt>& prompts, const ModelConfig& model,
                                   const Tokenizer* tokenizer) {
  std::vector<Request> requests;
  for (const Prompt& p : prompts) {
    if (p.ids.empty() && tokenizer == nullptr)
      input_error(
          "{}: prompt: found a text, but the model has no sentencepiece .model or tokenizer.json; name one with "
          "--tokenizer, or give token ids",
          p.where);
    Request r;
    r.id = static_cast<std::int64_t>(requests.size());
    r.prompt = tokens_of(p, model, tokenizer);
    const auto n = static_cast<std::int64_t>(r.prompt.size());
    const std::int64_t room = model.max_position_embeddings - n;
    if (room < std::max<std::int64_t>(1, p.max_tokens))
      input_error(
          "{}: found a prompt of {} tokens{}, expected at most the model's max_position_embeddings = {} together "
          "with the new ones; shorten it",
          p.where, n, p.max_tokens > 0 ? fmt::format(" and max_tokens {}", p.max_tokens) : "",
          model.max_position_embeddings);
    r.max_tokens = p.max_tokens > 0 ? p.max_tokens : std::min<std::int64_t>(128, room);
    const std::int64_t ends = model.eos_token_id >= 0 ? model.eos_token_id
                              : tokenizer != nullptr  ? tokenizer->eod_id()
                                                      : -1;
    r.stop = p.stop_token_ids;
    if (ends >= 0) r.stop.push_back(static_cast<std::int32_t>(ends));
    r.sampling = p.sampling;
    requests.push_back(std::move(r));
  }
  return requests;
}

std::string to_text(const std::vector<Request>& requests) {
  Json all = Json::array();
  for (const Request& r : requests)
    all.push_back({r.id, r.prompt, r.max_tokens, r.stop, r.sampling.temperature, r.sampling.top_k, r.sampling.top_p,
                   r.sampling.seed});
  return all.dump();
}

std::vector<Request> requests_from(const std::string& text) {
  std::vector<Request> requests;
  for (const Json& j : Json::parse(text))
    requests.push_back({j[0], j[1], j[2], j[3], SamplingOptions{j[4], j[5], j[6], j[7]}});
  return requests;
}

}  // namespace upcycle
