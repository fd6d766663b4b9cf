#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/check_fits.h"
#include "launch/cloze_items.h"
#include "launch/inference.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/sum_over_ranks.h"
#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

void check_rule(const ClozeRule& rule, std::int64_t batch, const ModelConfig& model) {
  const auto check = [](const char* name, std::int64_t found, std::int64_t least) {
    if (found < least) input_error("command line: {}: found {}, expected {} or more", name, found, least);
  };
  check("--items", rule.items, 1);
  check("--candidates", rule.candidates, 2);
  check("--context", rule.context, 1);
  check("--length", rule.length, 1);
  check("--batch", batch, 0);
  if (rule.context > model.max_position_embeddings || rule.length > model.max_position_embeddings - rule.context)
    input_error(
        "command line: --context and --length: found {} and {}, expected together at most the model's "
        "max_position_embeddings = {}",
        rule.context, rule.length, model.max_position_embeddings);
}

// The log-likelihood of each candidate after its item's context, item by item: sequences of S = context + length
// tokens, of which only the candidate's are counted, B at a time, divided over dp. The same on every rank. Collective.
std::vector<double> log_likelihoods(const LoadedModel& m, const TokenSet& set, const std::vector<ClozeItem>& items,
                                    const ClozeRule& rule, std::int64_t B) {
  const std::int64_t C = rule.context, n = rule.length, S = C + n, k = rule.candidates, dp = m.mesh->layout.dp;
  const std::int64_t sequences = rule.items * k;
  Pass pass = make_pass(m, B, S);
  std::vector<double> sums(static_cast<std::size_t>(sequences));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(B * S)), targets(tokens.size());
  std::vector<float> nll(tokens.size());
  // Every rank makes the same number of passes, the last perhaps without items: reaching other ranks' experts is
  // collective.
  for (std::int64_t begin = 0; begin < sequences; begin += dp * B) {
    const std::int64_t first = begin + m.mesh->at.dp * B, mine = std::min(B, sequences - first);
    std::fill(tokens.begin(), tokens.end(), 0);
    std::fill(targets.begin(), targets.end(), -1);
    for (std::int64_t i = 0; i < mine; ++i) {
      const ClozeItem& item = items[static_cast<std::size_t>((first + i) / k)];
      std::int32_t* const row = tokens.data() + i * S;
      set.read(item.context, C, row);
      set.read(item.candidates[static_cast<std::size_t>((first + i) % k)], n, row + C);
      std::copy_n(row + C, n, targets.data() + i * S + C - 1);
    }
    set_batch(pass, tokens, targets);
    forward(*pass.model, pass.batch, 0);
    m.device->copy_to_host(*m.stream, nll.data(), pass.model->activations.head.nll.data, nll.size() * sizeof(float));
    m.stream->synchronize();
    for (std::int64_t i = 0; i < mine; ++i)
      for (std::int64_t t = 0; t < S; ++t)
        sums[static_cast<std::size_t>(first + i)] -= static_cast<double>(nll[static_cast<std::size_t>(i * S + t)]);
  }
  sum_over_ranks(sums, *m.mesh->dp, *m.device, *m.stream);
  return sums;
}

std::vector<double> credits(const std::vector<double>& log_likelihoods, std::int64_t candidates) {
  std::vector<double> all;
  const auto k = static_cast<std::size_t>(candidates);
  for (std::size_t i = 0; i < log_likelihoods.size(); i += k)
    all.push_back(cloze_credit(std::span(log_likelihoods).subspan(i, k)));
  return all;
}

nlohmann::ordered_json result_json(const std::vector<double>& credits, const std::vector<std::int64_t>& documents,
                                   const ClozeRule& rule) {
  const ClozeScore score = cloze_score(credits, rule.candidates);
  nlohmann::ordered_json j{{"items", rule.items},
                           {"candidates", rule.candidates},
                           {"context", rule.context},
                           {"length", rule.length},
                           {"accuracy", score.accuracy},
                           {"corrected", score.corrected},
                           {"standard_error", score.standard_error},
                           {"correct", nlohmann::ordered_json::array()}};
  for (const double c : credits) {
    if (c == 0 || c == 1)
      j["correct"].push_back(static_cast<int>(c));
    else
      j["correct"].push_back(c);
  }
  j["documents"] = documents;
  return j;
}

struct ClozeOptions {
  std::string dir, data;
  ClozeRule rule;
  std::int64_t batch = 0, longest = 0;
  bool json = false;
};

int cloze(const MpiSession& session, const Arguments& arguments, const InferenceOptions& inference,
          const ClozeOptions& o) {
  const Inference ranks = start_inference(session, "cloze", arguments, inference);
  const auto source = open_over_ranks(ranks, o.dir);
  const ModelConfig model = source->model();
  std::optional<TokenSet> set;
  std::vector<ClozeItem> items;
  std::vector<std::int64_t> documents;
  std::int64_t B = 0;
  agree_or_throw(*ranks.mesh.world, [&] {
    check_rule(o.rule, o.batch, model);
    if (o.longest < 0) input_error("command line: --longest-document: found {}, expected 0 or more", o.longest);
    set = TokenSet::open(o.data, model.vocab_size);
    items = draw_cloze(*set, o.rule);
    documents = documents_of(items, *set, o.longest);
    const std::int64_t S = o.rule.context + o.rule.length;
    B = sequences_per_pass(o.batch, S, o.rule.items * o.rule.candidates, ranks.mesh.layout.tp);
    check_fits_inference(ranks.backend, plan_pass(model, ranks.config.storage(), ranks.mesh, *ranks.backend.ops, B, S));
  });
  const LoadedModel m = load_over_ranks(ranks, *source);
  const auto result =
      result_json(credits(log_likelihoods(m, *set, items, o.rule, B), o.rule.candidates), documents, o.rule);
  if (session.rank() != 0) return 0;
  if (o.json)
    fmt::print("{}\n", result.dump());
  else
    fmt::print("{}: {:.3f} of {} items right, {:.4f} +- {:.4f} with chance (1/{}) taken off\n", o.data,
               result["accuracy"].get<double>(), o.rule.items, result["corrected"].get<double>(),
               result["standard_error"].get<double>(), o.rule.candidates);
  return 0;
}

}  // namespace

int run_cloze(const Arguments& arguments) {
  ClozeOptions o;
  InferenceOptions inference;
  Options options(
      "cloze",
      "How often a model prefers the true continuation of held-out text to false ones. Each document is cut, behind "
      "its first `context` tokens, into pieces of `length` tokens. An item is a piece, the true continuation, and the "
      "tokens before it; pieces are drawn without replacement. The false continuations are pieces of other documents "
      "(of the same one, if no other is long enough), different from the true one and from each other. The model "
      "chooses the continuation of the highest log-likelihood, summed over its tokens; of m equal ones each counts "
      "1/m. "
      "Corrected for chance: (accuracy - 1/k) / (1 - 1/k), k candidates. The items depend only on the set and the "
      "options, not on the model or the ranks. An item's tokens lie in one document, so data.reset_attention_mask and "
      "its like change nothing; a set's loss mask is not looked at.");
  options.positional("model", o.dir, "a checkpoint or a Hugging Face directory");
  options.option("--data", o.data, "PREFIX of the token set", Need::Required);
  options.option("--items", o.rule.items, "how many");
  options.option("--candidates", o.rule.candidates, "continuations of an item, one of them true");
  options.option("--context", o.rule.context, "tokens before a continuation");
  options.option("--length", o.rule.length, "tokens of a continuation");
  options.option("--seed", o.rule.seed, "of the draws");
  options.option("--batch", o.batch, "sequences per pass and replica; 0: about 4096 tokens");
  options.option("--longest-document", o.longest,
                 "documents: longer ones count as pieces of so many tokens, as `eval --documents` has them; 0: whole");
  declare(options, inference);
  options.flag("--json", o.json,
               "print one JSON object: items, candidates, context, length, accuracy, corrected, standard_error (of "
               "corrected), correct (of each item 0, 1 or, with ties, a fraction), documents (of each item the number "
               "of the one, from "
               "0, that holds its first token)");
  options.example("upcycle cloze runs/moe --data tokens/docs_valid",
                  "accuracy among four continuations, chance taken off");
  if (!options.parse(arguments)) return 0;
  return run_with_ranks([&](const MpiSession& session) { return cloze(session, arguments, inference, o); });
}

}  // namespace upcycle
