#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "data/files.h"
#include "launch/check_fits.h"
#include "launch/inference.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/agree.h"
#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::int32_t> read_ids(const std::string& file, const ModelConfig& model) {
  constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  const std::string text = read_text(file, kMaxBytes);
  const Json j = nested_too_deeply(text) ? Json(Json::value_t::discarded) : Json::parse(text, nullptr, false);
  if (j.is_discarded() || !j.is_object() || !j.contains("ids") || !j["ids"].is_array())
    input_error("{}: found {}, expected {{\"ids\": [...]}} with a list of token ids; write it so", file,
                j.is_discarded() ? "no JSON"
                : j.is_object()  ? "no list \"ids\""
                                 : "no object");
  std::vector<std::int32_t> ids;
  for (const Json& id : j["ids"]) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= model.vocab_size)
      input_error("{}: ids[{}]: found {}, expected a token id from 0 to {}; is this another model's vocabulary?", file,
                  ids.size(), id.dump().substr(0, 40), model.vocab_size - 1);
    ids.push_back(id.get<std::int32_t>());
  }
  if (static_cast<std::int64_t>(ids.size()) > model.max_position_embeddings)
    input_error("{}: ids: found {}, expected at most the model's max_position_embeddings = {}; score a shorter list",
                file, ids.size(), model.max_position_embeddings);
  if (ids.size() < 2)
    input_error("{}: ids: found {}, expected at least 2 (a token is predicted from those before it)", file, ids.size());
  return ids;
}

// Rows of the pass: uncounted ones fill it up, so that tp divides them.
std::int64_t rows_of(std::size_t ids, const Mesh& mesh) {
  const std::int64_t tp = mesh.layout.tp;
  return (static_cast<std::int64_t>(ids) + tp - 1) / tp * tp;
}

// The logits (V) of one row, whole on every rank.
std::vector<float> whole_logits(const LoadedModel& m, Transformer& model, std::int64_t row) {
  const std::int64_t tp = m.mesh->layout.tp, V_local = model.sizes.V_local;
  Arena arena("gathered logits");
  Tensor all;
  const auto layout = [&] { all = arena.take(DType::F32, {tp, V_local}); };
  layout();
  arena.allocate(*m.device);
  layout();
  const Tensor mine = model.activations.scratch.logits_row;
  logits(model, mine, row, 1);
  m.stream->wait(m.mesh->tp->all_gather(all, mine));
  std::vector<float> out(static_cast<std::size_t>(m.config.vocab_size));  // without the last ranks' padding
  m.device->copy_to_host(*m.stream, out.data(), all.data, out.size() * sizeof(float));
  m.stream->synchronize();
  return out;
}

// One pass over all ids; the last one has no target, but its logits are reported. The same on every rank.
Json score(const LoadedModel& m, std::vector<std::int32_t> ids) {
  const std::size_t n = ids.size();
  Pass pass = make_pass(m, 1, rows_of(n, *m.mesh));
  std::vector<std::int32_t> targets(ids.begin() + 1, ids.end());
  ids.resize(static_cast<std::size_t>(pass.model->T()));
  targets.resize(ids.size(), -1);
  set_batch(pass, ids, targets);
  forward(*pass.model, pass.batch, 0);
  std::vector<float> nll(n - 1);
  m.device->copy_to_host(*m.stream, nll.data(), pass.model->activations.head.nll.data, nll.size() * sizeof(float));
  const std::vector<float> last = whole_logits(m, *pass.model, static_cast<std::int64_t>(n) - 1);
  double sum = 0;
  for (const float x : nll) sum += x;
  return Json{
      {"mean_nll", sum / static_cast<double>(nll.size())}, {"tokens", nll.size()}, {"nll", nll}, {"logits_last", last}};
}

}  // namespace

int run_score(const Arguments& arguments) {
  std::string dir, file;
  InferenceOptions inference;
  bool json = false;
  Options options("score", "Log-likelihood of given token ids, and the last position's logits.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.option("--ids", file, "JSON file {\"ids\": [...]}", Need::Required);
  declare(options, inference);
  options.flag("--json", json, "print one JSON object: mean_nll, tokens, nll, logits_last");
  options.example("upcycle score runs/moe --ids ids.json --json", "log-likelihood of the ids in {\"ids\": [...]}");
  if (!options.parse(arguments)) return 0;
  return run_with_ranks([&](const MpiSession& session) {
    const Inference ranks = start_inference(session, "score", arguments, inference);
    const auto source = open_over_ranks(ranks, dir);
    Communicator& world = *ranks.mesh.world;
    std::vector<std::int32_t> ids;
    agree_or_throw(world, [&] {
      if (session.rank() == 0) ids = read_ids(file, source->model());
    });
    ids = Json::parse(world.broadcast_text(Json(ids).dump(), 0)).get<std::vector<std::int32_t>>();
    agree_or_throw(world, [&] {
      check_fits_inference(ranks.backend, plan_pass(source->model(), ranks.config.storage(), ranks.mesh,
                                                    *ranks.backend.ops, 1, rows_of(ids.size(), ranks.mesh)));
    });
    const LoadedModel m = load_over_ranks(ranks, *source);
    const Json result = score(m, ids);
    if (session.rank() != 0) return 0;
    if (json) {
      fmt::print("{}\n", result.dump());
    } else {
      fmt::print("mean negative log-likelihood {:.6f} nats over {} tokens\n", result["mean_nll"].get<double>(),
                 ids.size() - 1);
    }
    return 0;
  });
}

}  // namespace upcycle
