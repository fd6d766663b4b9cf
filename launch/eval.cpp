#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "launch/check_fits.h"
#include "launch/document_cuts.h"
#include "launch/eval_documents.h"
#include "launch/inference.h"
#include "launch/model_files.h"
#include "launch/predicted_bytes.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/sum_over_ranks.h"
#include "parallel/train/evaluate.h"

namespace upcycle {
namespace {

// The sum of the losses of each part's predicted tokens, and their number.
struct Parts {
  std::vector<double> loss, predicted;
};

// Adds consecutive tokens from `first` on to the parts in which they lie.
void add_to_parts(Parts& parts, const std::vector<std::int64_t>& cuts, std::int64_t first,
                  std::span<const std::int32_t> targets, std::span<const float> nll) {
  std::size_t part = 0;
  for (std::size_t i = 0; i < nll.size(); ++i) {
    const std::int64_t token = first + static_cast<std::int64_t>(i);
    if (token >= cuts.back()) break;
    if (i == 0 || token >= cuts[part + 1])
      part = static_cast<std::size_t>(std::upper_bound(cuts.begin(), cuts.end(), token) - cuts.begin()) - 1;
    parts.loss[part] += static_cast<double>(nll[i]);
    parts.predicted[part] += targets[i] >= 0 ? 1 : 0;
  }
}

struct EvalOptions {
  std::string dir, data, tokenizer_file, split, part;
  std::int64_t S = 0, B = 0, longest = 0;
  bool documents = false, json = false;
  DocumentOptions apart;
};

void check_options(EvalOptions& o, const ModelConfig& model) {
  if (o.documents && !o.json)
    input_error("command line: --documents: found no --json, expected both; its list is part of that object");
  if (o.split.empty() != o.part.empty())
    input_error("command line: --data.split and --part: found one of them, expected both or none");
  if (o.longest < 0 || (o.longest > 0 && !o.documents))
    input_error("command line: --longest-document: found {}, expected 0 or more, with --documents", o.longest);
  if (o.S < 0 || o.B < 0)
    input_error("command line: --seq-length and --batch: found {} and {}, expected 0 or more", o.S, o.B);
  if (o.S > model.max_position_embeddings)
    input_error("command line: --seq-length: found {}, expected at most the model's max_position_embeddings = {}", o.S,
                model.max_position_embeddings);
  if (o.S == 0) o.S = std::min<std::int64_t>(2048, model.max_position_embeddings);
}

// For loss per byte, which is left out with a warning where the model's own tokenizer can not be read here.
std::optional<std::vector<std::int64_t>> bytes_of(const EvalOptions& o, const ModelConfig& model, const TokenSet& set,
                                                  const EvalWindows& windows, const std::vector<std::int64_t>& cuts) {
  try {
    const auto tokenizer = find_tokenizer(o.tokenizer_file, o.dir, model);
    if (tokenizer != nullptr) return predicted_bytes(set, windows, *tokenizer, cuts);
  } catch (const InputError& e) {
    if (!o.tokenizer_file.empty()) throw;
    log_warn("no loss per byte: {}", e.what());
  }
  return {};
}

// One entry per document: the sum of its tokens' losses, their number, and their bytes.
nlohmann::ordered_json documents_json(const Parts& parts, const std::optional<std::vector<std::int64_t>>& bytes) {
  auto list = nlohmann::ordered_json::array();
  for (std::size_t d = 0; d < parts.loss.size(); ++d) {
    list.push_back({parts.loss[d], static_cast<std::int64_t>(parts.predicted[d]), nullptr});
    if (bytes) list.back()[2] = (*bytes)[d];
  }
  return list;
}

nlohmann::ordered_json result_json(const EvalResult& r, std::int64_t S,
                                   const std::optional<std::vector<std::int64_t>>& bytes) {
  nlohmann::ordered_json result{
      {"loss", r.loss}, {"tokens", r.tokens}, {"seq_length", S}, {"bytes", nullptr}, {"loss_per_byte", nullptr}};
  if (!bytes) return result;
  const std::int64_t all = std::accumulate(bytes->begin(), bytes->end(), std::int64_t{0});
  result["bytes"] = all;
  if (all > 0) result["loss_per_byte"] = r.loss * static_cast<double>(r.tokens) / static_cast<double>(all);
  return result;
}

void print(const std::string& data, const nlohmann::ordered_json& result) {
  fmt::print("{}: loss {:.4f} nats per token over {} tokens in windows of {}", data, result["loss"].get<double>(),
             result["tokens"].get<std::int64_t>(), result["seq_length"].get<std::int64_t>());
  if (!result["loss_per_byte"].is_null()) fmt::print(", {:.4f} nats per byte", result["loss_per_byte"].get<double>());
  fmt::print("\n");
}

int eval(const MpiSession& session, const Arguments& arguments, const InferenceOptions& inference, EvalOptions o) {
  const Inference ranks = start_inference(session, "eval", arguments, inference);
  const auto source = open_over_ranks(ranks, o.dir);
  const ModelConfig model = source->model();
  std::optional<TokenSet> set;
  std::optional<EvalWindows> windows;
  std::vector<std::int64_t> cuts;
  std::optional<std::vector<std::int64_t>> bytes;
  bool parted = false;
  agree_or_throw(*ranks.mesh.world, [&] {
    check_options(o, model);
    const DocumentRules rules = rules_of(o.apart, *source);
    parted = rules.reset_attention_mask;
    set = TokenSet::open(o.data, model.vocab_size);
    if (!o.split.empty()) keep_part(*set, parse_split(o.split, "command line"), parse_split_part(o.part, "--part"));
    if (session.rank() == 0) check_document_ends(*set, rules);
    windows.emplace(*set, o.S, rules);
    o.B = sequences_per_pass(o.B, o.S, windows->count(), ranks.mesh.layout.tp);
    check_fits_inference(ranks.backend,
                         plan_pass(model, ranks.config.storage(), ranks.mesh, *ranks.backend.ops, o.B, o.S, parted));
    cuts = o.documents ? cut_long(set->document_starts(), o.longest) : std::vector<std::int64_t>{0, set->tokens()};
    if (session.rank() == 0) bytes = bytes_of(o, model, *set, *windows, cuts);
  });
  const LoadedModel m = load_over_ranks(ranks, *source);
  const Pass pass = make_pass(m, o.B, o.S, parted);
  Parts parts{std::vector<double>(cuts.size() - 1), std::vector<double>(cuts.size() - 1)};
  WindowSeen seen;
  if (o.documents)
    seen = [&](std::int64_t window, std::span<const std::int32_t> targets, std::span<const float> nll) {
      add_to_parts(parts, cuts, window * o.S + 1, targets, nll);
    };
  nlohmann::ordered_json result = result_json(evaluate(*pass.model, pass.batch, *windows, 0, seen), o.S, bytes);
  if (o.documents) {
    for (std::vector<double>* sums : {&parts.loss, &parts.predicted})
      sum_over_ranks(*sums, *ranks.mesh.dp, *m.device, *m.stream);
    result["documents"] = documents_json(parts, bytes);
  }
  if (session.rank() != 0) return 0;
  if (o.json)
    fmt::print("{}\n", result.dump());
  else
    print(o.data, result);
  return 0;
}

}  // namespace

int run_eval(const Arguments& arguments) {
  EvalOptions o;
  InferenceOptions inference;
  Options options(
      "eval",
      "Held-out loss: reads a token set in windows of seq-length; every token but the first is predicted once, or "
      "those that the model's run would have counted (data.eod_mask_loss).");
  options.positional("model", o.dir, "a checkpoint or a Hugging Face directory");
  options.option("--data", o.data, "PREFIX of the token set", Need::Required);
  options.option("--data.split", o.split, "as the run's: shares of the set's documents; with --part");
  options.option("--part", o.part, "train, valid or test: which of these documents");
  options.option("--tokenizer", o.tokenizer_file, "for loss per byte; by default the model's own");
  options.option("--seq-length", o.S, "0: the model's max_position_embeddings, at most 2048");
  options.option("--batch", o.B, "sequences per pass and replica; 0: about 4096 tokens");
  declare(options, inference);
  declare(options, o.apart);
  options.flag("--documents", o.documents,
               "with --json: also documents, [[sum of losses in nats, predicted tokens, bytes or null], ...]; an "
               "end-of-document token belongs to the document that it ends");
  options.option("--longest-document", o.longest,
                 "documents: longer ones are listed in pieces of so many tokens; 0: whole");
  options.flag("--json", o.json, "print one JSON object: loss, tokens, seq_length, bytes, loss_per_byte");
  options.example("upcycle eval runs/moe --data tokens/docs_valid", "held-out loss of a run's newest checkpoint");
  if (!options.parse(arguments)) return 0;
  return run_with_ranks([&](const MpiSession& session) { return eval(session, arguments, inference, o); });
}

}  // namespace upcycle
