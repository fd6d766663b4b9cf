#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/files.h"
#include "launch/backend.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/model/transformer.h"
#include "parallel/serve/loaded_model.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::int32_t> read_ids(const std::string& file, const ModelConfig& model) {
  constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  const Json j = Json::parse(read_text(file, kMaxBytes), nullptr, false);
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

// One pass over all ids; the last one has no target, but its logits are reported.
Json score(const LoadedModel& m, const std::vector<std::int32_t>& ids) {
  const auto n = static_cast<std::int64_t>(ids.size());
  Pass pass = make_pass(m, 1, n);
  std::vector<std::int32_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-1);
  set_batch(pass, ids, targets);
  forward(*pass.model, pass.batch, 0);
  std::vector<float> nll(ids.size()), last(static_cast<std::size_t>(m.config.vocab_size));
  const Tensor row = pass.model->activations.scratch.logits_row;
  logits(*pass.model, row, n - 1, 1);
  m.device->copy_to_host(*m.stream, nll.data(), pass.model->activations.head.nll.data, nll.size() * sizeof(float));
  m.device->copy_to_host(*m.stream, last.data(), row.data, last.size() * sizeof(float));
  m.stream->synchronize();
  nll.pop_back();
  double sum = 0;
  for (const float x : nll) sum += x;
  return Json{
      {"mean_nll", sum / static_cast<double>(nll.size())}, {"tokens", nll.size()}, {"nll", nll}, {"logits_last", last}};
}

}  // namespace

int run_score(const Arguments& arguments) {
  std::string dir, file, dtype = "fp32", device = "cpu";
  bool json = false;
  Options options("score", "Log-likelihood of given token ids, and the last position's logits.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.option("--ids", file, "JSON file {\"ids\": [...]}", Need::Required);
  options.option("--dtype", dtype, "fp32 or bf16");
  options.option("--device", device, "cpu or cuda");
  options.flag("--json", json, "print one JSON object: mean_nll, tokens, nll, logits_last");
  if (!options.parse(arguments)) return 0;
  const Backend backend = make_backend(device);
  const auto source = open_model(dir);
  check_kernel_limits(device, source->model(), dir);
  const std::vector<std::int32_t> ids = read_ids(file, source->model());
  check_fits_weights(backend, source->model(), parse_dtype(dtype));
  const LoadedModel m = load_model(*source, parse_dtype(dtype), *backend.device, *backend.stream, *backend.ops);
  const Json result = score(m, ids);
  if (json) {
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("mean negative log-likelihood {:.6f} nats over {} tokens\n", result["mean_nll"].get<double>(),
               ids.size() - 1);
  }
  return 0;
}

}  // namespace upcycle
