#include "launch/bench/predict.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "core/check.h"
#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "launch/backend.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/serving_options.h"
#include "parallel/serve/predicted_server.h"

namespace upcycle {
namespace {

// Seconds at which each of `n` requests that come at once ends, in that order.
std::vector<double> endings(Server& server, std::int64_t n, std::int64_t vocab_size, std::int64_t input_len,
                            std::int64_t output_len) {
  const double begin = server.now();
  for (std::int64_t id = 0; id < n; ++id) {
    Request r;
    r.id = id;
    r.max_tokens = output_len;
    r.sampling.temperature = 0;
    for (std::int64_t i = 0; i < input_len; ++i)  // spread over the vocabulary, so that experts get theirs
      r.prompt.push_back(static_cast<std::int32_t>((id * 7919 + i * 104729) % vocab_size));
    server.add(std::move(r));
  }
  std::vector<double> seconds;
  while (server.busy())
    for (const EmittedToken& token : server.step().tokens)
      if (token.finished != FinishReason::None) seconds.push_back(server.now() - begin);
  return seconds;
}

// InputError unless the list can be the model's: each expert gets a token at most once.
std::vector<double> read_expert_shares(const std::string& file, const ModelConfig& model) {
  const nlohmann::json list = parse_strict_json(read_config_file(file), file);
  const std::int64_t E = model.num_local_experts, k = model.num_experts_per_tok;
  std::vector<std::int64_t> tokens;
  if (list.is_array())
    for (const nlohmann::json& n : list)
      if (n.is_number_unsigned()) tokens.push_back(n.get<std::int64_t>());
  if (!model.is_moe() || !list.is_array() || static_cast<std::int64_t>(list.size()) != E ||
      static_cast<std::int64_t>(tokens.size()) != E)
    input_error("{}: found {}, expected a list of the tokens of each of the model's {} experts", file,
                list.dump().substr(0, 40), E);
  const std::vector<double> shares = expert_shares(tokens, k);
  for (std::size_t e = 0; e < shares.size(); ++e)
    if (shares[e] > 1)
      input_error("{}: [{}]: found {}, expected at most one in {} of all: a token goes to {} different experts", file,
                  e, tokens[e], k, k);
  return shares;
}

}  // namespace

Layout predicted_layout(const ModelConfig& model, std::int64_t world, const ParallelConfig& parallel,
                        const std::string& name) {
  constexpr std::int64_t most = 1 << 24;
  if (world < 0 || world > most) input_error("command line: --world: found {}, expected 0 to {}", world, most);
  const std::int64_t ranks = world > 0 ? world : std::lcm(parallel.tp, parallel.etp * parallel.ep);
  return inference_layout(model, static_cast<int>(ranks), parallel, name);
}

SteadyServing measure_steady(Server& server, std::int64_t vocab_size, std::int64_t input_len, std::int64_t output_len,
                             std::int64_t at_once) {
  SteadyServing s;
  s.latency_alone = endings(server, 1, vocab_size, input_len, output_len).back();
  const std::vector<double> ended = endings(server, 5 * at_once, vocab_size, input_len, output_len);
  const auto first = static_cast<std::size_t>(at_once - 1), last = static_cast<std::size_t>(4 * at_once - 1);
  s.requests_per_s = static_cast<double>(last - first) / (ended[last] - ended[first]);
  return s;
}

int bench_predict(const Arguments& arguments) {
  std::string file, machine_file, expert_file;
  std::int64_t world = 0, input_len = 0, output_len = 0;
  bool json = false;
  ServingOptions serving;
  std::vector<std::string> overrides;
  Options options("bench predict",
                  "What serving a model would reach on a machine, by the engine's own scheduler and a cost model: "
                  "throughput when there is always a next request, and the latency of one alone.");
  options.positional("config", file, "JSON config; its parallel.tp and parallel.ep are used");
  options.option("--machine", machine_file, "machine file, such as launch/machines/h100.json", Need::Required);
  options.option("--input-len", input_len, "tokens of a prompt", Need::Required);
  options.option("--output-len", output_len, "new tokens", Need::Required);
  options.option("--world", world, "ranks; 0: as few as the layout needs");
  options.option("--expert-tokens", expert_file,
                 "JSON file with the tokens that each expert got, a list of E numbers (`bench serve --json` reports "
                 "expert_tokens); by default all alike");
  add_serving_options(options, serving);
  options.flag("--json", json, "print one JSON object");
  options.config_overrides(overrides);
  options.example(
      "upcycle bench predict launch/configs/paper_serving_436m_moe.json --machine=launch/machines/h100.json "
      "--input-len=3500 --output-len=300",
      "serving on a machine that is not here");
  if (!options.parse(arguments)) return 0;

  const Machine machine = read_machine(machine_file);
  const Config c = parse_config(file, overrides);
  check_model(c.model, file);
  const Layout layout = predicted_layout(c.model, world, c.parallel, file);
  const auto memory = static_cast<std::size_t>(machine.memory_bytes * machine.memory_utilization);
  const SchedulerOptions o =
      scheduler_options(serving, c.model, layout, c.storage(), c.device == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu,
                        memory, workspace_of(c));
  const std::vector<double> shares =
      expert_file.empty() ? std::vector<double>{} : read_expert_shares(expert_file, c.model);
  const auto server = make_predicted_server(CostModel(c.model, layout, c.storage(), machine, shares), o);
  const std::string refused = Scheduler(o).refusal(input_len, output_len);
  if (!refused.empty()) input_error("command line: --input-len, --output-len: {}", refused);
  const std::int64_t fits =
      o.pages / std::max<std::int64_t>(1, (input_len + output_len - 1 + o.page_rows - 1) / o.page_rows);
  const SteadyServing s =
      measure_steady(*server, c.model.vocab_size, input_len, output_len, std::min(fits, o.max_num_seqs) * layout.dp);
  const double tokens_per_s = s.requests_per_s * static_cast<double>(input_len + output_len);
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"machine", machine.name},
                                              {"policy", serving.policy},
                                              {"max_num_batched_tokens", o.max_num_batched_tokens},
                                              {"max_num_seqs", o.max_num_seqs},
                                              {"cache_requests", fits},
                                              {"request_throughput", s.requests_per_s},
                                              {"total_token_throughput", tokens_per_s},
                                              {"latency_alone_s", s.latency_alone}}
                           .dump());
    return 0;
  }
  fmt::print(
      "{}: {:.2f} requests/s, {:.0f} tokens/s in and out, {} requests fit the cache; one request alone {:.3g} s\n",
      machine.name, s.requests_per_s, tokens_per_s, fits, s.latency_alone);
  return 0;
}

}  // namespace upcycle
