#include "launch/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "data/files.h"

namespace upcycle {

using Json = nlohmann::ordered_json;

namespace {

// A process that was killed while it wrote may have left a line without its end.
void drop_half_line(const std::string& path) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none)) return;
  std::string text(4096, '\0');
  std::uint64_t end = std::filesystem::file_size(path);
  const FileDescriptor file = open_regular_file(path);
  for (std::uint64_t at = end; at > 0;) {
    const std::uint64_t n = std::min<std::uint64_t>(at, text.size());
    at -= n;
    file.read_at(at, text.data(), n);
    const std::size_t line_end = text.rfind('\n', n - 1);
    end = line_end == std::string::npos ? at : at + line_end + 1;
    if (line_end != std::string::npos) break;
  }
  if (end < file.size()) std::filesystem::resize_file(path, end);
}

// Seconds of one (n, n) x (n, n) product: the best of some, each the mean of `together` that are issued at once.
double product_seconds(const Backend& b, DType dtype, std::int64_t n, int together) {
  OpLimits limits;
  limits.T = limits.H = limits.F = n;
  limits.dtype = dtype;
  Arena arena("peak measurement");
  Tensor x, w, y, scratch;
  const auto layout = [&] {
    x = arena.take(dtype, {n, n});
    w = arena.take(dtype, {n, n});
    y = arena.take(dtype, {n, n});
    scratch = arena.take(DType::F32, {static_cast<std::int64_t>(b.ops->workspace_bytes(limits) / 4 + 1)});
  };
  layout();
  arena.allocate(*b.device);
  layout();
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < together; ++j)
      b.ops->matmul(*b.stream, {scratch.data, scratch.bytes()}, MatmulKind::NT, y, x, w);
    b.stream->synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, seconds / together);
  }
  return best;
}

}  // namespace

Metrics::Metrics(const std::string& run_dir, double peak_flops, const Config& config)
    : peak_flops_(peak_flops), log_every_(std::max<std::int64_t>(1, config.train.log_every)) {
  if (run_dir.empty()) return;
  const std::string path = run_dir + "/metrics.jsonl";
  drop_half_line(path);
  file_ = std::fopen(path.c_str(), "a");
  if (file_ == nullptr)
    input_error("{}: cannot be opened for appending ({}); expected a file, move what is there away", path,
                std::strerror(errno));
}

Metrics::~Metrics() {
  if (file_ != nullptr) std::fclose(file_);
}

void Metrics::write(const std::string& line) {
  if (file_ == nullptr) return;
  const bool written = std::fprintf(file_, "%s\n", line.c_str()) > 0 && std::fflush(file_) == 0;
  UPCYCLE_CHECK(written, "metrics.jsonl can not be written");
}

void Metrics::step(const Trainer& t, const StepResult& r, double seconds, std::int64_t total) {
  const double tokens_per_s = static_cast<double>(r.tokens) / seconds;
  const double flops = t.flops_per_token * tokens_per_s;
  Json layers = Json::array();
  for (std::size_t l = 0; l < r.layers.size(); ++l)
    if (t.config.model.is_moe_layer(static_cast<std::int64_t>(l)))
      layers.push_back({{"layer", l},
                        {"load_max_over_mean", r.layers[l].load_max_over_mean},
                        {"router_entropy", r.layers[l].entropy},
                        {"aux_loss", r.layers[l].aux},
                        {"z_loss", r.layers[l].z}});
  write(Json{{"step", t.step},
             {"tokens", t.tokens},
             {"loss", r.loss},
             {"aux_loss", r.aux_loss},
             {"z_loss", r.z_loss},
             {"lr", r.lr},
             {"grad_norm", r.grad_norm},
             {"tokens_per_s", tokens_per_s},
             {"mfu", flops / peak_flops_},
             {"step_ms", seconds * 1e3},
             {"moe_layers", layers}}
            .dump());

  // The first step of a process makes primitives and faults pages in: it says nothing of the pace.
  average_seconds_ = average_seconds_ == 0 ? seconds : 0.9 * average_seconds_ + 0.1 * seconds;
  if (t.step % log_every_ != 0 && t.step != total && t.step != 1) return;
  const auto left = static_cast<std::int64_t>(average_seconds_ * static_cast<double>(total - t.step));
  std::string line = fmt::format("step {}/{}  loss {:.4f}", t.step, total, r.loss);
  if (t.config.model.is_moe()) line += fmt::format("  aux {:.3f}", r.aux_loss);
  line += fmt::format("  lr {:.2e}  grad norm {:.3f}  {:.0f} tokens/s  mfu {:.0f} %  {:02d}:{:02d}:{:02d} left", r.lr,
                      r.grad_norm, tokens_per_s, 100 * flops / peak_flops_, left / 3600, left / 60 % 60, left % 60);
  log_info("{}", line);
}

void Metrics::eval(const Trainer& t, const std::string& set, double loss, std::int64_t tokens) {
  write(
      Json{{"step", t.step}, {"tokens", t.tokens}, {"eval", set}, {"eval_loss", loss}, {"eval_tokens", tokens}}.dump());
  log_info("step {}  held-out {}: loss {:.4f} over {} tokens", t.step, set, loss, tokens);
}

double measure_peak_flops(const Backend& backend, DType dtype) {
  const auto flops = [&](std::int64_t n, int together) {
    const auto side = static_cast<double>(n);
    return 2 * side * side * side / product_seconds(backend, dtype, n, together);
  };
  if (backend.gpu < 0) return flops(1024, 1);
  // GPUs differ by orders of magnitude, and the emulated one by more: grow until a product takes a millisecond.
  double best = 0;
  for (std::int64_t n = 256; n <= 8192; n *= 2) {
    best = std::max(best, flops(n, 4));
    const auto side = static_cast<double>(n);
    if (2 * side * side * side / best > 1e-3) break;
  }
  return best;
}

}  // namespace upcycle
