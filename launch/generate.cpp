#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/streamed_text.h"
#include "launch/check_fits.h"
#include "launch/inference.h"
#include "launch/model_files.h"
#include "launch/prompts.h"
#include "launch/run_with_ranks.h"
#include "launch/serving_options.h"
#include "parallel/comm/agree.h"
#include "parallel/serve/engine.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateOptions {
  std::string dir, prompt, file, tokenizer_file;
  Prompt defaults;
  bool json = false;
  ServingOptions serving;
};

std::vector<Prompt> prompts_of(const GenerateOptions& o) {
  if (!o.file.empty()) return read_prompts(o.file, o.defaults);
  Prompt p = o.defaults;
  p.text = o.prompt;
  return {p};
}

// Prints the answers as they come: a single text token by token; several texts in the order of the prompts, each when
// it and those before it are whole; JSON objects in the order in which they are finished.
class Answers {
 public:
  Answers(const std::vector<Prompt>& prompts, const std::vector<Request>& requests, const Tokenizer* tokenizer,
          bool json)
      : prompts_(&prompts), requests_(&requests), tokenizer_(tokenizer), json_(json), tokens_(requests.size()) {
    if (json || requests.size() > 1) return;
    streamed_ = std::make_unique<StreamedText>(*tokenizer, requests[0].prompt);
  }

  void take(const EmittedToken& t) {
    const auto index = static_cast<std::size_t>(t.id);
    std::vector<std::int32_t>& tokens = tokens_[index];
    tokens.push_back(t.token);
    const bool finished = t.finished != FinishReason::None;
    if (streamed_ != nullptr) {
      if (tokens.size() == 1) fmt::print("{}", (*prompts_)[0].text);
      if (t.finished != FinishReason::Stop) fmt::print("{}", streamed_->add(t.token));
      if (finished) fmt::print("{}\n", streamed_->finish());
    } else if (finished && json_) {
      print_object(index, t.finished);
    } else if (finished) {
      print_in_order(index, t.finished);
    }
    std::fflush(stdout);
  }

 private:
  std::string text(std::size_t index, FinishReason finished) const {
    std::span<const std::int32_t> shown = tokens_[index];
    if (finished == FinishReason::Stop) shown = shown.first(shown.size() - 1);
    return added_text(*tokenizer_, (*requests_)[index].prompt, shown);
  }

  void print_object(std::size_t index, FinishReason finished) const {
    const Prompt& p = (*prompts_)[index];
    const Json j{{"index", index},
                 {"prompt", p.ids.empty() ? Json(p.text) : Json(p.ids)},
                 {"text", tokenizer_ != nullptr ? Json(text(index, finished)) : Json()},
                 {"tokens", tokens_[index]},
                 {"finish_reason", finished == FinishReason::Stop ? "stop" : "length"}};
    fmt::print("{}\n", j.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  void print_in_order(std::size_t index, FinishReason finished) {
    whole_[index] = (*prompts_)[index].text + text(index, finished);
    for (; whole_.contains(next_); ++next_) {
      fmt::print("{}{}\n", next_ > 0 ? "\n" : "", whole_[next_]);
      whole_.erase(next_);
    }
  }

  const std::vector<Prompt>* prompts_;
  const std::vector<Request>* requests_;
  const Tokenizer* tokenizer_;
  bool json_;
  std::vector<std::vector<std::int32_t>> tokens_;  // new ones, by index
  std::unique_ptr<StreamedText> streamed_;         // of a single text
  std::map<std::size_t, std::string> whole_;       // finished before an earlier one
  std::size_t next_ = 0;
};

// No more sequences, positions and rows of a step than these requests need.
SchedulerOptions schedule_for(const std::vector<Request>& requests, ServingOptions serving, const Inference& ranks,
                              const ModelConfig& model, std::size_t memory) {
  const std::int64_t dp = ranks.mesh.layout.dp;
  serving.max_num_seqs = std::min(serving.max_num_seqs, (static_cast<std::int64_t>(requests.size()) + dp - 1) / dp);
  std::int64_t rows = 0, longest = 0;
  for (const Request& r : requests) {
    const auto prompt = static_cast<std::int64_t>(r.prompt.size());
    rows += prompt;
    longest = std::max(longest, prompt + r.max_tokens);
  }
  if (serving.max_model_len == 0) serving.max_model_len = longest;
  if (serving.max_num_batched_tokens == 0 && serving.policy == "mixed")
    serving.max_num_batched_tokens =
        std::clamp<std::int64_t>(rows, serving.max_num_seqs, std::max<std::int64_t>(2048, serving.max_num_seqs));
  return scheduler_options(serving, model, ranks.mesh.layout, ranks.config.storage(), ranks.backend.device->kind(),
                           memory, workspace_of(ranks.config));
}

int generate(const MpiSession& session, const Arguments& arguments, const InferenceOptions& inference,
             const GenerateOptions& o) {
  const Inference ranks = start_inference(session, "generate", arguments, inference);
  Communicator& world = *ranks.mesh.world;
  const auto source = open_over_ranks(ranks, o.dir);
  const ModelConfig model = source->model();
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<Prompt> prompts;
  std::vector<Request> requests;
  agree_or_throw(world, [&] {  // files and tokenizer are read by one rank
    if (session.rank() != 0) return;
    prompts = prompts_of(o);
    tokenizer = find_tokenizer(o.tokenizer_file, o.dir, model);
    requests = make_requests(prompts, model, tokenizer.get());
    if (tokenizer == nullptr && !o.json)
      input_error("{}: found no tokenizer in it, expected one to print text; name it with --tokenizer, or use --json",
                  o.dir);
  });
  requests = requests_from(world.broadcast_text(to_text(requests), 0));
  const std::size_t memory = memory_for_serving(ranks);
  SchedulerOptions scheduling;
  agree_or_throw(world, [&] {
    scheduling = schedule_for(requests, o.serving, ranks, model, memory);
    check_fits_inference(ranks.backend,
                         engine_memory(model, ranks.mesh.layout, session.rank(), ranks.config.storage(), scheduling,
                                       ranks.backend.device->kind(), workspace_of(ranks.config)));
    const Scheduler scheduler(scheduling);
    for (std::size_t i = 0; i < prompts.size(); ++i) {  // of the rank that has them
      const Request& r = requests[i];
      const std::string refusal = scheduler.refusal(static_cast<std::int64_t>(r.prompt.size()), r.max_tokens);
      if (!refusal.empty()) input_error("{}: found {}", prompts[i].where, refusal);
    }
  });
  const LoadedModel m = load_over_ranks(ranks, *source);
  const auto engine = make_engine(m, scheduling);
  for (const Request& r : requests) engine->add(r);
  std::unique_ptr<Answers> answers;
  if (session.rank() == 0) answers = std::make_unique<Answers>(prompts, requests, tokenizer.get(), o.json);
  while (engine->busy())
    for (const EmittedToken& t : engine->step().tokens)
      if (answers != nullptr) answers->take(t);
  return 0;
}

}  // namespace

int run_generate(const Arguments& arguments) {
  GenerateOptions o;
  InferenceOptions inference;
  Prompt& p = o.defaults;
  p.where = "command line";
  std::int64_t seed = 1;
  Options options("generate", "Continues a text, or the prompts of a file, which are served together.");
  options.positional("model", o.dir, "a checkpoint or a Hugging Face directory");
  options.positional("prompt", o.prompt, "the text to continue", Need::Optional);
  options.option("--prompts", o.file,
                 "a file with one prompt per line; of FILE.jsonl objects {\"prompt\": text or list of ids, and at will "
                 "max_tokens, temperature, top_k, top_p, seed, stop_token_ids}");
  options.option("--tokens", p.max_tokens, "new tokens at most; 0: as many as the context has room for, at most 128");
  options.option("--temperature", p.sampling.temperature, "0: greedy");
  options.option("--top-k", p.sampling.top_k, "draw among the k most likely; 0: all");
  options.option("--top-p", p.sampling.top_p, "draw among the most likely that together reach this probability");
  options.option("--seed", seed, "of the draws; the n-th prompt of a file has the n-th seed after it");
  options.option("--tokenizer", o.tokenizer_file, "by default the model's own");
  options.flag("--json", o.json,
               "print one JSON object per prompt when it is finished: index, prompt, text, tokens, "
               "finish_reason");
  declare(options, inference);
  add_serving_options(options, o.serving);
  options.example("upcycle generate runs/moe \"Once upon\"", "continues one text");
  options.example("upcycle generate runs/moe --prompts prompts.jsonl --json", "serves many prompts together");
  if (!options.parse(arguments)) return 0;
  if (!o.prompt.empty() && !o.file.empty())
    input_error("command line: found a prompt and --prompts, expected one of them");
  if (p.max_tokens < 0) input_error("command line: --tokens: found {}, expected 0 or more", p.max_tokens);
  if (seed < 0) input_error("command line: --seed: found {}, expected 0 or more", seed);
  p.sampling.seed = static_cast<std::uint64_t>(seed);
  check_sampling(p.where, p);
  return run_with_ranks([&](const MpiSession& session) { return generate(session, arguments, inference, o); });
}

}  // namespace upcycle
