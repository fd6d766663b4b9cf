#include "launch/bench/calibrate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "data/files.h"
#include "launch/agree_on_start.h"
#include "launch/bench/fit_machine.h"
#include "launch/bench/predict.h"
#include "launch/check_fits.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/run_with_ranks.h"
#include "launch/serving_options.h"
#include "parallel/comm/agree.h"
#include "parallel/serve/engine.h"
#include "parallel/serve/predicted_server.h"

namespace upcycle {
namespace {

// Weights as random as a step's time needs them, and quickly drawn.
class RandomWeights final : public TensorSource {
 public:
  explicit RandomWeights(const ModelConfig& model) : model_(model) {}
  const std::string& name() const override { return name_; }
  const ModelConfig& model() const override { return model_; }
  bool has(const std::string&) const override { return true; }
  void read(const std::string&, const Rectangle& part, float* out) override {
    for (std::int64_t i = 0; i < part.size(); ++i) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      out[i] = static_cast<float>(static_cast<std::int32_t>(state_ >> 32)) * 0x1p-31f * 0.05f;
    }
  }

 private:
  std::string name_ = "random weights";
  ModelConfig model_;
  std::uint64_t state_ = 1;
};

struct Measuring {
  const Backend& backend;
  const Mesh& mesh;
  DType dtype;
  const WorkspaceBytes& workspace;
};

std::unique_ptr<LoadedModel> random_model(const Measuring& here, const ModelConfig& model, const SchedulerOptions& o) {
  agree_or_throw(*here.mesh.world, [&] {
    check_fits_inference(here.backend, engine_memory(model, here.mesh.layout, here.mesh.rank, here.dtype, o,
                                                     here.backend.device->kind(), here.workspace));
  });
  RandomWeights source(model);
  const Backend& b = here.backend;
  return std::make_unique<LoadedModel>(load_model(source, here.dtype, here.mesh, *b.device, *b.stream, *b.ops));
}

// The best of three of each row: prompts of few and of many tokens, decoding of few and of many sequences.
MeasuredModel measure_rows(const Measuring& here, const ModelConfig& model, const SchedulerOptions& o) {
  const auto loaded = random_model(here, model, o);
  const auto engine = make_engine(*loaded, o);
  MeasuredModel m{model, o, {}};
  for (const auto& [PP, B] : {std::pair<std::int64_t, std::int64_t>{16, 1},
                              {16, 4},
                              {16, 16},
                              {16, 32},
                              {128, 1},
                              {128, 8},
                              {512, 1},
                              {512, 4}}) {
    std::optional<OfflineRow> best;
    for (int i = 0; i < 3; ++i) {
      const auto row = measure_offline(*engine, PP, 6, B, model.vocab_size, o.max_model_len);
      if (!row) break;
      if (!best) best = row;
      best->T_PP = std::min(best->T_PP, row->T_PP);
      best->T_TG = std::min(best->T_TG, row->T_TG);
    }
    if (best) m.rows.push_back(*best);
  }
  return m;
}

void print_rows(const char* name, const MeasuredModel& m, const std::vector<OfflineRow>& predicted,
                std::vector<double>& errors) {
  for (std::size_t i = 0; i < m.rows.size(); ++i) {
    const OfflineRow &a = m.rows[i], &b = predicted[i];
    errors.push_back(b.T_PP / a.T_PP - 1);
    errors.push_back(b.T_TG / a.T_TG - 1);
    fmt::print("| {} | {} | {} | {:.1f} | {:.1f} | {:+.0f} % | {:.1f} | {:.1f} | {:+.0f} % |\n", name, a.PP, a.B,
               a.T_PP * 1e3, b.T_PP * 1e3, 100 * errors[errors.size() - 2], a.T_TG * 1e3 / static_cast<double>(a.TG),
               b.T_TG * 1e3 / static_cast<double>(b.TG), 100 * errors.back());
  }
}

void print_errors(std::vector<double> errors) {
  for (double& e : errors) e = std::abs(e);
  std::sort(errors.begin(), errors.end());
  fmt::print("median error {:.1f} %, largest {:.1f} %\n\n", 100 * errors[errors.size() / 2], 100 * errors.back());
}

void show(const std::string& file, const std::vector<MeasuredModel>& measured, const Machine& machine,
          const Layout& layout, DType dtype) {
  fmt::print(
      "{}\n\n| | prompt | sequences | prompts, ms | predicted | | decoding, ms per step | predicted | |\n"
      "|--|--|--|--|--|--|--|--|--|\n",
      file);
  std::vector<double> errors;
  for (const MeasuredModel& m : measured)
    print_rows(m.model.is_moe() ? "MoE" : "dense", m, predicted_rows(machine, m, layout, dtype), errors);
  print_errors(errors);
}

// What is measured of a config: its MoE and its dense base.
std::vector<ModelConfig> pair_of(const ModelConfig& moe) {
  ModelConfig dense = moe;
  dense.num_local_experts = 0;
  return {dense, moe};
}

}  // namespace

namespace {

Config moe_config(const std::string& file, const std::vector<std::string>& overrides) {
  Config c = parse_config(file, overrides);
  check_model(c.model, file);
  if (!c.model.is_moe())
    input_error("{}: model.num_local_experts: found 0, expected an MoE: its dense base is measured beside it", file);
  return c;
}

}  // namespace

int bench_calibrate(const Arguments& arguments) {
  std::string file, check, output;
  std::vector<std::string> overrides;
  ServingOptions serving;
  serving.max_num_seqs = 32;
  Options options("bench calibrate", "The constants of this machine, for `bench predict` and `bench serve`.");
  options.positional("config", file, "JSON config of an MoE whose weights exceed the caches");
  options.option("--check", check, "JSON config of another: predicted with the constants beside measured");
  options.option("--output", output, "machine file to write");
  add_serving_options(options, serving);
  options.config_overrides(overrides);
  options.example("upcycle bench calibrate launch/configs/bench_moe.json --output=machine.json",
                  "this machine's constants, for --machine");
  if (!options.parse(arguments)) return 0;
  return run_with_ranks([&](const MpiSession& session) {
    const Start start = agree_on_start(session, "bench calibrate", [&] {
      if (!check.empty()) (void)moe_config(check, overrides);
      if (!output.empty() && !std::filesystem::is_directory(parent_folder(output)))
        input_error("command line: --output: found no folder {}, expected one to write {} into", parent_folder(output),
                    output);
      return moe_config(file, overrides);
    });
    const Config& c = start.config;
    const Backend backend = make_backend(session, c);
    const Mesh mesh = make_backend_mesh(backend, session, start.layout);
    const WorkspaceBytes workspace = workspace_of(c);
    const Measuring here{backend, mesh, c.storage(), workspace};
    const double memory = memory_of_each(backend, mesh);
    const auto scheduling = [&](const ModelConfig& model) {
      return scheduler_options(serving, model, start.layout, c.storage(), backend.device->kind(),
                               static_cast<std::size_t>(memory * 0.9), workspace);
    };
    std::vector<MeasuredModel> measured;
    for (const ModelConfig& model : pair_of(c.model)) measured.push_back(measure_rows(here, model, scheduling(model)));
    Machine machine = fit_machine(any_machine(memory), measured, start.layout, c.storage());
    machine.name = fmt::format("this machine, {} rank{}, {}", session.size(), session.size() > 1 ? "s" : "", c.dtype);
    if (!output.empty() && session.rank() == 0)
      write_machine(output, machine, fmt::format("fitted by bench calibrate {}, {}", file, c.dtype));
    if (session.rank() == 0) show(file, measured, machine, start.layout, c.storage());
    if (check.empty()) return 0;
    const Config other = parse_config(check, overrides);
    std::vector<MeasuredModel> others;
    std::vector<std::pair<double, double>> rates;  // measured, predicted
    for (const ModelConfig& model : pair_of(other.model)) {
      const SchedulerOptions o = scheduling(model);
      others.push_back(measure_rows(here, model, o));
      const auto loaded = random_model(here, model, o);
      const auto predicted = make_predicted_server({model, start.layout, c.storage(), machine}, o);
      rates.emplace_back(measure_steady(*make_engine(*loaded, o), model.vocab_size, 128, 32, 16).requests_per_s,
                         measure_steady(*predicted, model.vocab_size, 128, 32, 16).requests_per_s);
    }
    if (session.rank() != 0) return 0;
    show(check, others, machine, start.layout, c.storage());
    for (std::size_t i = 0; i < 2; ++i)
      fmt::print("{}: {:.2f} requests/s of 128 tokens in and 32 out measured, {:.2f} predicted ({:+.0f} %)\n",
                 i == 0 ? "dense" : "MoE", rates[i].first, rates[i].second,
                 100 * (rates[i].second / rates[i].first - 1));
    fmt::print("slowdown {:.2f} measured, {:.2f} predicted\n", rates[0].first / rates[1].first,
               rates[0].second / rates[1].second);
    return 0;
  });
}

}  // namespace upcycle
