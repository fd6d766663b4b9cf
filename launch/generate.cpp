#include <cstdio>
#include <utility>

#include "core/error.h"
#include "data/streamed_text.h"
#include "launch/check_fits.h"
#include "launch/inference.h"
#include "launch/model_files.h"
#include "launch/run_with_ranks.h"
#include "launch/serving_options.h"
#include "parallel/comm/agree.h"
#include "parallel/serve/engine.h"

namespace upcycle {
namespace {

void check_sampling(const SamplingOptions& s, std::int64_t most, std::int64_t seed) {
  if (s.temperature < 0)
    input_error("command line: --temperature: found {}, expected 0 (greedy) or more", s.temperature);
  if (s.top_k < 0) input_error("command line: --top-k: found {}, expected 0 (all) or more", s.top_k);
  if (!(s.top_p > 0 && s.top_p <= 1))
    input_error("command line: --top-p: found {}, expected more than 0, at most 1", s.top_p);
  if (most < 1) input_error("command line: --tokens: found {}, expected 1 or more", most);
  if (seed < 0) input_error("command line: --seed: found {}, expected 0 or more", seed);
}

}  // namespace

int run_generate(const Arguments& arguments) {
  std::string dir, prompt, tokenizer_file;
  InferenceOptions inference;
  std::int64_t most = 128, seed = 1;
  SamplingOptions sampling;
  Options options("generate", "Continues a text.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.positional("prompt", prompt, "the text to continue", Need::Optional);
  options.option("--tokens", most, "new tokens at most");
  options.option("--temperature", sampling.temperature, "0: greedy");
  options.option("--top-k", sampling.top_k, "draw among the k most likely; 0: all");
  options.option("--top-p", sampling.top_p, "draw among the most likely that together reach this probability");
  options.option("--seed", seed, "of the draws");
  options.option("--tokenizer", tokenizer_file, "by default the model's own");
  declare(options, inference);
  ServingOptions serving;
  add_serving_options(options, serving);
  if (!options.parse(arguments)) return 0;
  check_sampling(sampling, most, seed);
  sampling.seed = static_cast<std::uint64_t>(seed);
  return run_with_ranks([&](const MpiSession& session) {
    const Inference ranks = start_inference(session, "generate", arguments, inference);
    const auto source = open_over_ranks(ranks, dir);
    const ModelConfig model = source->model();
    agree_or_throw(*ranks.mesh.world, [&] {
      if (session.size() > 1)
        input_error("command line: generate: found {} ranks, expected one: start it without mpirun", session.size());
    });
    const auto tokenizer = find_tokenizer(tokenizer_file, dir, model);
    if (tokenizer == nullptr)
      input_error(
          "{}: found no tokenizer in it, expected a sentencepiece .model or tokenizer.json; name one with "
          "--tokenizer",
          dir);

    // A document begins after the begin-of-text token if the model has one, else after an end-of-document token.
    const auto stop = static_cast<std::int32_t>(model.eos_token_id >= 0 ? model.eos_token_id : tokenizer->eod_id());
    std::vector<std::int32_t> tokens{model.bos_token_id >= 0 ? static_cast<std::int32_t>(model.bos_token_id)
                                                             : tokenizer->eod_id()};
    const std::vector<std::int32_t> text = tokenizer->encode(prompt);
    tokens.insert(tokens.end(), text.begin(), text.end());
    if (static_cast<std::int64_t>(tokens.size()) >= model.max_position_embeddings)
      input_error(
          "command line: prompt: found {} tokens, expected fewer than the model's max_position_embeddings = {}, so "
          "that "
          "there is room to continue it; shorten it",
          tokens.size(), model.max_position_embeddings);

    Request request;
    request.prompt = tokens;
    request.max_tokens = std::min(most, model.max_position_embeddings - static_cast<std::int64_t>(tokens.size()));
    request.stop = {stop};
    request.sampling = sampling;
    serving.max_num_seqs = 1;
    serving.max_model_len = static_cast<std::int64_t>(tokens.size()) + request.max_tokens;
    const WorkspaceBytes workspace = workspace_of(ranks.config);
    const SchedulerOptions scheduling =
        scheduler_options(serving, model, ranks.mesh.layout, ranks.config.storage(), ranks.backend.device->kind(),
                          memory_of(ranks.backend) / static_cast<std::size_t>(ranks.backend.ranks_on_host), workspace);
    check_fits_inference(ranks.backend, engine_memory(model, ranks.mesh.layout, session.rank(), ranks.config.storage(),
                                                      scheduling, ranks.backend.device->kind(), workspace));
    const LoadedModel m = load_over_ranks(ranks, *source);
    const auto engine = make_engine(m, scheduling);
    StreamedText streamed(*tokenizer, text);
    bool begun = false;
    engine->add(request);
    while (engine->busy())
      for (const EmittedToken& t : engine->step().tokens) {
        if (!std::exchange(begun, true)) fmt::print("{}", prompt);  // not before the model has run successfully
        if (t.token != stop) fmt::print("{}", streamed.add(t.token));
        std::fflush(stdout);
      }
    fmt::print("{}", streamed.finish());
    fmt::print("\n");
    return 0;
  });
}

}  // namespace upcycle
