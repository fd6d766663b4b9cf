#include "launch/inference.h"

#include <algorithm>
#include <numeric>

#include "core/config/parse.h"
#include "core/error.h"
#include "launch/agree_on_start.h"
#include "launch/check_fits.h"
#include "parallel/comm/agree.h"
#include "parallel/model/sizes.h"

namespace upcycle {
namespace {

Config config_of(const InferenceOptions& o) {
  return parse_config("", {"dtype=" + o.dtype, "device=" + o.device, fmt::format("parallel.tp={}", o.tp),
                           fmt::format("parallel.ep={}", o.ep), fmt::format("parallel.etp={}", o.etp),
                           fmt::format("parallel.timeout_s={}", o.timeout_s)});
}

}  // namespace

void declare(Options& options, InferenceOptions& o) {
  options.option("--dtype", o.dtype, "fp32 or bf16");
  options.option("--device", o.device, "cpu or cuda");
  options.option("--parallel.tp", o.tp, "ranks that share every matrix");
  options.option("--parallel.ep", o.ep, "ranks that share the experts");
  options.option("--parallel.etp", o.etp, "ranks that share one expert: 1, or tp");
  options.option("--parallel.timeout_s", o.timeout_s, "seconds that a rank waits for others before the run ends");
}

Inference start_inference(const MpiSession& session, const std::string& command, const Arguments& arguments,
                          const InferenceOptions& options) {
  std::string words = command;
  for (const std::string& argument : arguments) words += " " + argument;
  Start start = agree_on_start(session, words, [&] { return config_of(options); });
  Backend backend = make_backend(session, start.config);
  Mesh mesh = make_backend_mesh(backend, session, start.layout);
  return {std::move(start.config), std::move(backend), std::move(mesh)};
}

Layout inference_layout(const ModelConfig& model, int world, const ParallelConfig& p, const std::string& name) {
  const auto problem_of = [&](const Layout& layout) -> std::string {
    try {
      (void)sizes_of(model, layout, Coordinates{});
      return "";
    } catch (const InputError& e) {
      return fmt::format("{}: {}", name, e.what());
    }
  };
  return make_layout(world, p.tp, p.ep, p.etp, {problem_of});
}

std::unique_ptr<TensorSource> open_over_ranks(const Inference& ranks, const std::string& dir) {
  auto source = open_model(dir, ranks.mesh.world.get());
  agree_or_throw(*ranks.mesh.world, [&] {
    check_kernel_limits(ranks.config.device, source->model(), dir);
    (void)inference_layout(source->model(), ranks.mesh.layout.world, ranks.config.parallel, dir);
  });
  return source;
}

std::int64_t sequences_per_pass(std::int64_t asked, std::int64_t S, std::int64_t there_are, std::int64_t tp) {
  const std::int64_t multiple = tp / std::gcd(S, tp);
  const std::int64_t B = std::min(asked > 0 ? asked : std::max<std::int64_t>(1, 4096 / S), there_are);
  return (B + multiple - 1) / multiple * multiple;
}

double memory_of_each(const Backend& backend, const Mesh& mesh) {
  const double mine = static_cast<double>(memory_of(backend)) / (backend.gpu < 0 ? backend.ranks_on_host : 1);
  return -mesh.world->max_of(-mine);
}

std::size_t memory_for_serving(const Inference& ranks) {
  return static_cast<std::size_t>(0.9 * memory_of_each(ranks.backend, ranks.mesh));
}

LoadedModel load_over_ranks(const Inference& ranks, TensorSource& source) {
  const Backend& b = ranks.backend;
  return load_model(source, ranks.config.storage(), ranks.mesh, *b.device, *b.stream, *b.ops);
}

}  // namespace upcycle
