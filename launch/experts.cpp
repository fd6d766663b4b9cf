#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/sampler.h"
#include "launch/check_fits.h"
#include "launch/eval_documents.h"
#include "launch/expert_start.h"
#include "launch/inference.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/agree.h"
#include "parallel/train/batch_documents.h"
#include "parallel/upcycle/expert_similarity.h"
#include "parallel/upcycle/experts_observer.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

struct ExpertsOptions {
  std::string dir, data, since;
  std::int64_t tokens = 4096;
  bool json = false;
  DocumentOptions apart;
};

void check_moe(const TensorSource& source, const std::string& dir) {
  if (!source.model().is_moe())
    input_error("{}: found a dense model, expected a Mixture-of-Experts: only that has experts to compare", dir);
}

// The experts of two models are compared by number, layer by layer.
void check_same_experts(const ModelConfig& a, const ModelConfig& b, const ExpertsOptions& o) {
  const auto check = [&](const char* key, std::int64_t found, std::int64_t expected) {
    if (found != expected)
      input_error("{}: model.{}: found {}, expected {} as in {}; give an earlier checkpoint of the same run", o.since,
                  key, found, expected, o.dir);
  };
  check("num_local_experts", b.num_local_experts, a.num_local_experts);
  check("num_experts_per_tok", b.num_experts_per_tok, a.num_experts_per_tok);
  check("num_hidden_layers", b.num_hidden_layers, a.num_hidden_layers);
  check("moe_every_n_layers", b.moe_every_n_layers, a.moe_every_n_layers);
  for (std::int64_t l = 0; l < a.num_hidden_layers; ++l)
    if (a.is_moe_layer(l) != b.is_moe_layer(l))
      input_error(
          "{}: model.mlp_only_layers: found other layers than in {}; give an earlier checkpoint of the same run",
          o.since, o.dir);
  check("vocab_size", b.vocab_size, a.vocab_size);
  check("max_position_embeddings", b.max_position_embeddings, a.max_position_embeddings);
}

// The first tokens of a set, in whole windows of S, which is a multiple of kExpertRowAlign, and what its documents mean
// to the model.
struct Text {
  TokenSet set;
  DocumentRules rules;
  std::int64_t S = 0, windows = 0;
};

Text open_text(const ExpertsOptions& o, const TensorSource& source) {
  const ModelConfig model = source.model();
  Text text{TokenSet::open(o.data, model.vocab_size), rules_of(o.apart, source)};
  check_document_ends(text.set, text.rules);
  const std::int64_t least = kExpertRowAlign, there = std::min(o.tokens, text.set.tokens());
  if (o.tokens < least) input_error("command line: --tokens: found {}, expected {} or more", o.tokens, least);
  text.S = std::min({there, std::int64_t{2048}, model.max_position_embeddings}) / least * least;
  if (text.S == 0)
    input_error("{}.bin and {}: found {} tokens and max_position_embeddings = {}, expected at least {} of both", o.data,
                o.dir, text.set.tokens(), model.max_position_embeddings, least);
  text.windows = there / text.S;
  return text;
}

// Passes over the text, one window at a time.
std::vector<ObservedExperts> observe(const Inference& ranks, TensorSource& source, const Text& text, bool outputs) {
  const LoadedModel m = load_over_ranks(ranks, source);
  Pass pass = make_pass(m, 1, text.S, text.rules.reset_attention_mask);
  BatchDocuments documents(*m.device, text.rules, pass.model->pass, 1);
  ExpertsObserver observer(*pass.model, outputs);
  pass.model->observer = &observer;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(text.S)), targets(tokens.size(), -1);
  for (std::int64_t w = 0; w < text.windows; ++w) {
    text.set.read(w * text.S, text.S, tokens.data());
    set_batch(pass, tokens, targets);
    documents.find(0, tokens);
    documents.put(*m.device, *m.stream, pass.batch, 0);
    forward_hidden(*pass.model, pass.batch, 0);
    m.stream->synchronize();  // the host buffers are about to be refilled
  }
  return observer.layers();
}

Json number_or_null(double x) { return std::isfinite(x) ? Json(x) : Json(); }

Json result_json(TensorSource& model, TensorSource* start, const std::vector<ObservedExperts>& seen,
                 const std::vector<ObservedExperts>& before, std::int64_t tokens) {
  Json j{{"layers", Json::array()}, {"tokens", tokens}};
  for (const char* key : {"weight_cosine", "pair_cosine", "pair_cosine_min", "output_cosine", "load", "entropy"})
    j[key] = Json::array();
  if (start == nullptr) j["weight_cosine"] = nullptr;
  j["routing_changed"] = before.empty() ? Json() : Json::array();
  const std::int64_t k = model.model().num_experts_per_tok;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const ObservedExperts& layer = seen[i];
    const WeightSimilarity weights = weight_similarity(model, start, layer.layer);
    j["layers"].push_back(layer.layer);
    if (start != nullptr) j["weight_cosine"].push_back(number_or_null(weights.start));
    j["pair_cosine"].push_back(number_or_null(weights.pairs));
    j["pair_cosine_min"].push_back(number_or_null(weights.least_of_pairs));
    j["output_cosine"].push_back(
        number_or_null(layer.output_cosine / static_cast<double>(layer.compared_tokens)));  // NaN: none was compared
    Json load = Json::array();
    for (const std::int64_t n : layer.assignments)
      load.push_back(static_cast<double>(n) / static_cast<double>(layer.chosen.size()));
    j["load"].push_back(load);
    j["entropy"].push_back(layer.entropy / static_cast<double>(layer.tokens));
    if (!before.empty()) j["routing_changed"].push_back(routing_changed(layer, before[i], k));
  }
  return j;
}

void print(const Json& j) {
  const auto cell = [&](const char* key, std::size_t i) {
    const bool known = !j[key].is_null() && !j[key][i].is_null();
    return known ? fmt::format("{:.4f}", j[key][i].get<double>()) : std::string("-");
  };
  fmt::print("{:>5} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}\n", "layer", "start", "pairs", "least", "outputs",
             "max load", "entropy", "changed");
  for (std::size_t i = 0; i < j["layers"].size(); ++i) {
    const auto load = j["load"][i].get<std::vector<double>>();
    fmt::print("{:>5} {:>8} {:>8} {:>8} {:>8} {:>8.4f} {:>8} {:>8}\n", j["layers"][i].get<std::int64_t>(),
               cell("weight_cosine", i), cell("pair_cosine", i), cell("pair_cosine_min", i), cell("output_cosine", i),
               *std::max_element(load.begin(), load.end()), cell("entropy", i), cell("routing_changed", i));
  }
}

int experts(const MpiSession& session, const Arguments& arguments, const InferenceOptions& inference,
            const ExpertsOptions& o) {
  const Inference ranks = start_inference(session, "experts", arguments, inference);
  agree_or_throw(*ranks.mesh.world, [&] {
    if (session.size() > 1)
      input_error("command line: found {} ranks, expected one: start `upcycle experts` without mpirun or srun",
                  session.size());
  });
  const auto source = open_over_ranks(ranks, o.dir);
  check_moe(*source, o.dir);
  const auto since = o.since.empty() ? nullptr : open_over_ranks(ranks, o.since);
  if (since != nullptr) {
    check_moe(*since, o.since);
    check_same_experts(source->model(), since->model(), o);
  }
  const Text text = open_text(o, *source);
  auto plan = plan_pass(source->model(), ranks.config.storage(), ranks.mesh, *ranks.backend.ops, 1, text.S,
                        text.rules.reset_attention_mask);
  plan.push_back({"experts of a layer", weight_similarity_bytes(source->model()), true});
  check_fits_inference(ranks.backend, plan);
  const RunStart start = start_of_run(*source);
  const auto seen = observe(ranks, *source, text, true);
  const auto before = since == nullptr ? std::vector<ObservedExperts>{} : observe(ranks, *since, text, false);
  const Json result = result_json(*source, start.model.get(), seen, before, text.windows * text.S);
  if (o.json)
    fmt::print("{}\n", result.dump());
  else
    print(result);
  return 0;
}

}  // namespace

int run_experts(const Arguments& arguments) {
  ExpertsOptions o;
  InferenceOptions inference;
  Options options("experts",
                  "How the experts of a Mixture-of-Experts have parted, for each MoE layer: cosines of each expert's "
                  "weights (gate, "
                  "up and down as one vector) with those that it started from, which are made again from the run's "
                  "config, and with "
                  "the other experts'; of the experts' outputs, all of them on the layer's inputs for the same tokens; "
                  "the share of "
                  "assignments of each expert; the router's entropy (nats).");
  options.positional("model", o.dir, "a run folder, a checkpoint or a Hugging Face directory");
  options.option("--data", o.data, "PREFIX of the token set whose first tokens are read", Need::Required);
  options.option("--since", o.since,
                 "an earlier checkpoint: also the share of (token, chosen expert) that differs between the two");
  options.option("--tokens", o.tokens, "at most how many, in whole windows of at most 2048");
  options.option("--dtype", inference.dtype, "fp32 or bf16");
  options.option("--device", inference.device, "cpu or cuda");
  declare(options, o.apart);
  options.flag("--json", o.json,
               "print one JSON object: layers, tokens and, with one entry per layer, weight_cosine (null: the start is "
               "not known), pair_cosine, pair_cosine_min, output_cosine, load, entropy, routing_changed (null without "
               "--since)");
  options.example("upcycle experts runs/moe --data tokens/docs_valid",
                  "how far experts have parted, and what they are given");
  if (!options.parse(arguments)) return 0;
  return run_with_ranks([&](const MpiSession& session) { return experts(session, arguments, inference, o); });
}

}  // namespace upcycle
