#include "launch/bench/serve.h"
#include "launch/bench/predict.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/tokenizer.h"
#include "launch/bench/fit_machine.h"
#include "launch/bench/remote_server.h"
#include "launch/bench/serve_plan.h"
#include "launch/bench/serve_report.h"
#include "launch/check_fits.h"
#include "launch/inference.h"
#include "launch/model_files.h"
#include "launch/run_with_ranks.h"
#include "launch/serving_options.h"
#include "parallel/comm/agree.h"
#include "parallel/serve/engine.h"
#include "parallel/serve/predicted_server.h"

namespace upcycle {
namespace {

struct ServeOptions {
  std::string model, baseline, url, model_name, header, prompt = "ids", machine, svg;
  bool predict = false, json = false;
  bool seed_given = false;
  bool dtype_given = false, tp_given = false, ep_given = false, etp_given = false;  // these win over a config's
  std::int64_t vocab_size = 0, world = 0, timeout = 600;
  LoadOptions load;
  ServingOptions serving;
  InferenceOptions inference;
};

void check(const ServeOptions& o) {
  if (!o.url.empty() && (o.predict || !o.model.empty() || !o.baseline.empty() || !o.machine.empty()))
    input_error(
        "command line: bench serve: found --url and a model, --baseline, --predict or --machine, expected --url "
        "without them: the server has its model");
  if (!o.url.empty() && o.prompt == "text" && !o.load.requests.empty())
    input_error("command line: --prompt: found text and --requests, expected ids: a file's prompts are sent as ids");
  if (o.url.empty() && o.model.empty())
    input_error("command line: bench serve: found no model, expected one, or --url");
  if (o.predict && o.machine.empty())
    input_error("command line: --predict: found no --machine, expected a file such as launch/machines/h100.json");
  if (o.prompt != "ids" && o.prompt != "text")
    input_error("command line: --prompt: found '{}', expected ids or text", o.prompt);
  if (o.vocab_size < 0 || o.world < 0 || o.timeout < 1)
    input_error(
        "command line: --vocab-size, --world, --request-timeout: found {}, {} and {}, expected 0 or more, the "
        "last 1 or more",
        o.vocab_size, o.world, o.timeout);
  if (!o.svg.empty() && !std::filesystem::is_directory(parent_folder(o.svg)))
    input_error("command line: --svg: found no folder {}, expected one to write {} into", parent_folder(o.svg), o.svg);
}

// An option that would change nothing is refused by name.
void refuse(const Options& options, const std::vector<std::string>& names, const std::string& why) {
  for (const std::string& name : names)
    if (options.given(name)) input_error("command line: bench serve: found {} {}", name, why);
}

void check_given(const Options& options, const ServeOptions& o) {
  const std::vector<std::string> local{"--dtype",        "--device",
                                       "--parallel.tp",  "--parallel.ep",
                                       "--parallel.etp", "--parallel.timeout_s",
                                       "--policy",       "--max-num-batched-tokens",
                                       "--block-size",   "--memory",
                                       "--batches",      "--world"},
      remote{"--model-name", "--prompt", "--vocab-size", "--request-timeout", "--header"};
  if (o.url.empty()) {
    refuse(options, remote, "without --url, expected both: it is for a server elsewhere");
  } else {
    refuse(options, local, "and --url, expected one of them: it is for a server that runs here");
  }
  if (o.predict) {
    refuse(options, {"--seconds", "--parallel.timeout_s"},
           "and --predict, expected one of them: nothing is waited for");
  } else {
    refuse(options, {"--world"}, "without --predict, expected both: mpirun says how many ranks run");
  }
  if (o.load.thorough) refuse(options, {"--seconds"}, "and --thorough, expected one of them: that takes what it takes");
  if (o.load.requests.empty()) refuse(options, {"--tokenizer"}, "without --requests, expected both: prompts are drawn");
  if (!o.predict && o.baseline.empty())
    refuse(options, {"--machine"}, "without --predict or --baseline, expected one of them: nothing is predicted");
}

void show(const ServeReport& report, const ServeOptions& o) {
  if (!o.svg.empty()) write_text_atomic(o.svg, svg_of(report));
  if (o.json) {
    fmt::print("{}\n", to_json(report).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print_report(report);
  }
}

std::function<void(const std::string&)> progress(const ServeOptions& o) {
  if (o.json) return {};
  return [](const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
}

ServedModel served(const std::string& name, const ModelConfig& model, const SchedulerOptions& options,
                   const Layout& layout) {
  ServedModel s{name, model.vocab_size, options.max_model_len, options.max_num_seqs * layout.dp, 0, true, layout};
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l) s.moe_layers += model.is_moe_layer(l) ? 1 : 0;
  return s;
}

// The models beside each other: the baseline first, because the other's rates are compared with it.
struct Contender {
  std::string name;
  ModelConfig model;
  SchedulerOptions scheduling;
  Predict predict;
};

std::int64_t context_of(const std::vector<Contender>& contenders, const ServingOptions& serving) {
  std::int64_t context = contenders[0].model.max_position_embeddings;
  for (const Contender& c : contenders) context = std::min(context, c.model.max_position_embeddings);
  return serving.max_model_len > 0 ? std::min(context, serving.max_model_len) : context;
}

BenchPlan plan_for(const ServeOptions& o, const std::vector<Contender>& contenders) {
  BenchPlan plan = plan_of(o.load, context_of(contenders, o.serving), static_cast<int>(contenders.size()));
  plan.workload.vocab_size = contenders[0].model.vocab_size;
  for (const Contender& c : contenders)
    plan.workload.vocab_size = std::min(plan.workload.vocab_size, c.model.vocab_size);
  return plan;
}

// The cache is sized for what is asked, from the same memory for both.
SchedulerOptions scheduling_of(const ServeOptions& o, const BenchPlan& plan, const Contender& c, const Layout& layout,
                               DType dtype, DeviceKind device, std::size_t memory, const WorkspaceBytes& workspace) {
  ServingOptions serving = o.serving;
  if (serving.max_model_len == 0)
    serving.max_model_len = longest_sequence(plan, c.model.max_position_embeddings, serving.max_num_batched_tokens);
  return scheduler_options(serving, c.model, layout, dtype, device, memory, workspace);
}

// A machine's constants, fitted to what was just measured here, where no file gives them.
void calibrate(std::vector<Contender>& contenders, const std::vector<Measured>& measured, const Layout& layout,
               DType dtype, std::size_t memory) {
  std::vector<MeasuredModel> rows;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    rows.push_back({contenders[i].model, contenders[i].scheduling, measured[i].offline});
    rows.back().rows.insert(rows.back().rows.end(), measured[i].calibration.begin(), measured[i].calibration.end());
  }
  const Machine machine = fit_machine(any_machine(static_cast<double>(memory)), rows, layout, dtype);
  for (Contender& c : contenders) {
    const CostModel cost(c.model, layout, dtype, machine);
    c.predict = [cost, options = c.scheduling] { return make_predicted_server(cost, options); };
  }
}

ServeReport report_of(BenchPlan plan, std::vector<Measured> measured, const std::vector<Contender>& contenders) {
  ServeReport r;
  r.model = std::move(measured.back());
  if (measured.size() > 1) {
    r.baseline = std::move(measured.front());
    r.slowdown = compare(r.model, *r.baseline, plan.workload, contenders.back().predict, contenders.front().predict);
  }
  r.plan = std::move(plan);
  return r;
}

std::vector<FileRequest> read_requests_of(const ServeOptions& o, std::int64_t vocab_size,
                                          const std::function<std::unique_ptr<Tokenizer>()>& find) {
  const std::unique_ptr<Tokenizer> tokenizer = find();
  if (tokenizer == nullptr) return read_requests(o.load.requests, vocab_size, nullptr);
  return read_requests(o.load.requests, vocab_size, [&](const std::string& text) { return tokenizer->encode(text); });
}

int serve_here(const MpiSession& session, const Arguments& arguments, const ServeOptions& o) {
  const auto begin = std::chrono::steady_clock::now();
  const Inference ranks = start_inference(session, "bench serve", arguments, o.inference);
  Communicator& world = *ranks.mesh.world;
  const Layout& layout = ranks.mesh.layout;
  const DType dtype = ranks.config.storage();
  const WorkspaceBytes workspace = workspace_of(ranks.config);
  const DeviceKind device = ranks.backend.device->kind();
  std::vector<std::unique_ptr<TensorSource>> sources;
  std::vector<Contender> contenders;
  for (const std::string& dir : {o.baseline, o.model}) {
    if (dir.empty()) continue;
    sources.push_back(open_over_ranks(ranks, dir));
    contenders.push_back({dir, sources.back()->model(), {}, {}});
  }
  const std::size_t memory = memory_for_serving(ranks);
  BenchPlan plan;
  std::string requests;
  agree_or_throw(world, [&] {
    plan = plan_for(o, contenders);
    if (o.load.requests.empty() || session.rank() > 0) return;  // one rank reads the file
    requests = to_text(read_requests_of(o, plan.workload.vocab_size, [&] {
      return find_tokenizer(o.load.tokenizer, o.model, contenders.back().model);
    }));
  });
  requests = world.broadcast_text(requests, 0);
  agree_or_throw(world, [&] {
    if (!requests.empty())
      use_requests(plan.workload, parse_requests(requests, o.load.requests, plan.workload.vocab_size, nullptr));
    for (Contender& c : contenders) {
      c.scheduling = scheduling_of(o, plan, c, layout, dtype, device, memory, workspace);
      check_fits_inference(ranks.backend,
                           engine_memory(c.model, layout, session.rank(), dtype, c.scheduling, device, workspace));
      if (o.machine.empty()) continue;
      const CostModel cost(c.model, layout, dtype, read_machine(o.machine));
      c.predict = [cost, options = c.scheduling] { return make_predicted_server(cost, options); };
    }
  });
  if (session.rank() == 0) plan.say = progress(o);
  plan.calibrate = contenders.size() > 1 && o.machine.empty();
  std::vector<Measured> measured;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const LoadedModel loaded = load_over_ranks(ranks, *sources[i]);
    const auto engine = make_engine(loaded, contenders[i].scheduling);
    const double spent = world.max_of(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (!plan.thorough)
      plan.seconds = std::max(1.0, (o.load.seconds - spent) / static_cast<double>(contenders.size() - i));
    const ServedModel model = served(contenders[i].name, contenders[i].model, contenders[i].scheduling, layout);
    measured.push_back(measure_server(*engine, model, plan));
  }
  if (session.rank() != 0) return 0;
  if (plan.calibrate) calibrate(contenders, measured, layout, dtype, memory);
  show(report_of(std::move(plan), std::move(measured), contenders), o);
  return 0;
}

// A config's model, layout and dtype, or a checkpoint's model; what the command line gives wins.
Config described(const ServeOptions& o, const std::string& path) {
  const bool checkpoint = std::filesystem::is_directory(path);
  Config c = checkpoint ? Config{} : parse_config(path, {});
  if (checkpoint) c.model = open_model(path)->model();
  check_model(c.model, path);
  if (checkpoint || o.dtype_given) c.dtype = o.inference.dtype;
  if (o.tp_given) c.parallel.tp = o.inference.tp;
  if (o.ep_given) c.parallel.ep = o.inference.ep;
  if (o.etp_given) c.parallel.etp = o.inference.etp;
  return c;
}

// Slowdowns are of the same number of ranks, and of the same dtype.
void check_alike(const ServeOptions& o, const Config& model, const Config& baseline,
                 const std::vector<Layout>& layouts) {
  if (model.dtype != baseline.dtype)
    input_error("{}: dtype: found {}, expected {} as {} has it; give both one with --dtype", o.baseline, baseline.dtype,
                model.dtype, o.model);
  if (layouts.front().world != layouts.back().world)
    input_error("{}: found {} ranks, expected {} as {} has them; give both the same number with --world", o.baseline,
                layouts.front().world, layouts.back().world, o.model);
}

int predict(const ServeOptions& o) {
  std::vector<Config> configs;
  for (const std::string& path : {o.baseline, o.model})
    if (!path.empty()) configs.push_back(described(o, path));
  const Config config = parse_config("", {"dtype=" + configs.back().dtype, "device=" + o.inference.device});
  const DType dtype = config.storage();
  const Machine machine = read_machine(o.machine);
  std::vector<Contender> contenders;
  std::vector<Layout> layouts;
  for (const Config& c : configs) {
    const std::string& path = &c == &configs.back() ? o.model : o.baseline;
    contenders.push_back({path, c.model, {}, {}});
    layouts.push_back(predicted_layout(c.model, o.world, c.parallel, path));
  }
  check_alike(o, configs.back(), configs.front(), layouts);
  LoadOptions load = o.load;
  load.thorough = true;  // a predicted minute passes in no time
  ServeOptions thorough = o;
  thorough.load = load;
  BenchPlan plan = plan_for(thorough, contenders);
  if (!o.load.requests.empty())
    use_requests(plan.workload, read_requests_of(o, plan.workload.vocab_size, [&]() -> std::unique_ptr<Tokenizer> {
                   if (!std::filesystem::is_directory(o.model)) return nullptr;
                   return find_tokenizer(o.load.tokenizer, o.model, contenders.back().model);
                 }));
  plan.say = progress(o);
  std::vector<Measured> measured;
  const auto memory = static_cast<std::size_t>(machine.memory_bytes * machine.memory_utilization);
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    Contender& c = contenders[i];
    c.scheduling = scheduling_of(o, plan, c, layouts[i], dtype, DeviceKind::Cuda, memory, workspace_of(config));
    const CostModel cost(c.model, layouts[i], dtype, machine);
    const auto server = make_predicted_server(cost, c.scheduling);
    measured.push_back(measure_server(*server, served(c.name, c.model, c.scheduling, layouts[i]), plan));
  }
  ServeReport report = report_of(std::move(plan), std::move(measured), contenders);
  report.predicted_for = machine.name;
  for (EqualRate& r : report.slowdown.at_rate) r.predicted = std::exchange(r.measured, {});
  show(report, o);
  return 0;
}

int serve_elsewhere(const ServeOptions& o) {
  constexpr std::int64_t kContext = 4096, kVocabulary = 1000;  // where neither server nor user says
  (void)plan_of(o.load, 0, 1);  // what is wrong with the options is said before the server is asked
  RemoteModel remote;
  const char* const key = std::getenv("OPENAI_API_KEY");
  const auto server =
      connect_to({o.url, o.model_name, o.prompt == "text", o.timeout, key != nullptr ? key : "", o.header}, remote);
  const std::int64_t said = o.serving.max_model_len > 0 ? o.serving.max_model_len : remote.max_model_len;
  ServedModel model{remote.name, o.vocab_size > 0 ? o.vocab_size : kVocabulary, said, o.serving.max_num_seqs, 0, false,
                    {}};
  BenchPlan plan = plan_of(o.load, said > 0 ? said : kContext, 1);
  plan.workload.vocab_size = model.vocab_size;
  // A server that keeps prompts would answer a second run from its cache.
  if (!o.seed_given) plan.workload.seed = std::random_device()();
  if (!o.load.requests.empty())
    use_requests(plan.workload, read_requests_of(o, model.vocab_size, [&]() -> std::unique_ptr<Tokenizer> {
                   const std::string& file = o.load.tokenizer;
                   if (file.empty()) return nullptr;
                   return open_tokenizer(file);
                 }));
  plan.say = progress(o);
  std::vector<Measured> measured;
  measured.push_back(measure_server(*server, model, plan));
  show(report_of(std::move(plan), std::move(measured), {}), o);
  return 0;
}

}  // namespace

int bench_serve(const Arguments& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i)
    for (const char* name : {"ttft:", "tpot:", "e2el:"})
      if (arguments[i].starts_with(name) && (i == 0 || arguments[i - 1] != "--goodput"))
        input_error(
            "command line: --goodput: found {} as a word of its own, expected limits joined by commas, such as "
            "--goodput=ttft:200,tpot:50",
            quote_text(arguments[i]));
  ServeOptions o;
  Options options(
      "bench serve",
      "What a model costs to serve: prefill and decoding by batch size, request rates up to the highest that is "
      "sustained, and beside --baseline how much slower it is. With --url any OpenAI-compatible server.");
  options.positional("model", o.model, "a checkpoint or a Hugging Face directory; with --predict also a JSON config",
                     Need::Optional);
  options.option("--baseline", o.baseline, "the dense model that it is compared with, with the same memory");
  declare(options, o.load);
  declare(options, o.inference);
  add_serving_options(options, o.serving);
  options.option("--url", o.url, "measure this server: http://host:port/v1");
  options.option("--model-name", o.model_name, "url: the model to ask for; by default the first it lists");
  options.option("--prompt", o.prompt, "url: ids (vLLM, SGLang) or text, one short word for each token");
  options.option("--vocab-size", o.vocab_size, "url: prompts are drawn from ids below it; 0: 1000");
  options.option("--request-timeout", o.timeout, "url: seconds after which a request has failed");
  options.option("--header", o.header,
                 "url: 'Name: value' to send with each request; $OPENAI_API_KEY goes as a bearer");
  options.flag("--predict", o.predict, "predict all of it for the machine of --machine");
  options.option("--machine", o.machine, "machine file, such as launch/machines/h100.json: predicts the slowdown too");
  options.option("--world", o.world, "predict: ranks; 0: as few as the layout needs");
  options.option("--svg", o.svg, "write throughput against latency to this file");
  options.flag("--json", o.json, "print one JSON object: model, baseline, slowdown");
  options.example("upcycle bench serve runs/moe --baseline dense --svg runs/curves.svg",
                  "the MoE's throughput and latency under load beside its dense base's");
  if (!options.parse(arguments)) return 0;
  o.seed_given = options.given("--seed");
  o.dtype_given = options.given("--dtype");
  o.tp_given = options.given("--parallel.tp");
  o.ep_given = options.given("--parallel.ep");
  o.etp_given = options.given("--parallel.etp");
  check(o);
  check_given(options, o);
  if (!o.url.empty()) return run_alone("bench serve --url", [&] { return serve_elsewhere(o); });
  if (o.predict) return run_alone("bench serve --predict", [&] { return predict(o); });
  return run_with_ranks([&](const MpiSession& session) { return serve_here(session, arguments, o); });
}

}  // namespace upcycle
