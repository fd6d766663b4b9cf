#include "launch/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/config/batch_ramp.h"
#include "core/error.h"
#include "core/log.h"
#include "data/files.h"
#include "launch/step_line.h"
#include "parallel/train/step.h"

namespace upcycle {

using Json = nlohmann::ordered_json;

namespace {

// A process that was killed while writing may have left an incomplete line.
void drop_half_line(const std::string& path) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(path, none))) return;
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

// `both`: by step and, as " vs samples", by the number of sequences.
void add(EventFile& events, const Trainer& t, const EventFile::Scalars& both, EventFile::Scalars by_step) {
  EventFile::Scalars by_samples = both;
  for (auto& [tag, value] : by_samples) tag += " vs samples";
  by_step.insert(by_step.begin(), both.begin(), both.end());
  events.add(t.step, by_step);
  events.add(t.consumed_samples, by_samples);
}

struct Pace {
  double seconds = 0, flops_per_s = 0, mfu = 0;
  std::size_t memory = 0;
};

void add_step(EventFile& events, const Trainer& t, const StepResult& r, const Pace& pace) {
  EventFile::Scalars by_step = {{"iteration-time", pace.seconds},
                                {"throughput", pace.flops_per_s / 1e12 / t.mesh->layout.world},  // TFLOP/s of a rank
                                {"tokens-per-second", static_cast<double>(r.tokens) / pace.seconds},
                                {"mfu", pace.mfu},
                                {"mem-allocated-bytes", static_cast<double>(pace.memory)}};
  if (t.config.train.decoupled_lr >= 0) by_step.push_back({"decoupled-learning-rate", r.decoupled_lr});
  if (t.config.model.is_moe()) {
    by_step.insert(by_step.end(), {{"load_balancing_loss", r.aux_loss}, {"z_loss", r.z_loss}});
    for (std::size_t l = 0; l < r.layers.size(); ++l) {
      if (!t.config.model.is_moe_layer(static_cast<std::int64_t>(l))) continue;
      const RouterMetrics& m = r.layers[l];
      by_step.insert(by_step.end(), {{fmt::format("moe/load_balancing_loss_layer_{}", l), m.aux},
                                     {fmt::format("moe/z_loss_layer_{}", l), m.z},
                                     {fmt::format("moe/load_max_over_mean_layer_{}", l), m.load_max_over_mean},
                                     {fmt::format("moe/router_entropy_layer_{}", l), m.entropy}});
    }
  }
  add(events, t,
      {{"lm loss", r.loss},
       {"learning-rate", r.lr},
       {"grad-norm", r.grad_norm},
       {"batch-size", static_cast<double>(r.samples)}},
      by_step);
}

Json ranks_object(const RankTimes& times) {
  Json slow = Json::array();
  for (const Straggler& s : times.slow) {
    Json& one =
        slow.emplace_back(Json{{"rank", s.rank}, {"host", s.host}, {"ms", s.seconds * 1e3}, {"ratio", s.ratio}});
    if (s.assignments_ratio > 0) one["expert_tokens_ratio"] = s.assignments_ratio;
    if (s.no_core >= 0) one["no_core_ms"] = s.no_core * 1e3;
  }
  return {{"median", times.median * 1e3},
          {"longest", times.longest * 1e3},
          {"longest_rank", times.longest_rank},
          {"slow", slow}};
}

}  // namespace

Metrics::Metrics(const std::string& run_dir, Yardstick yardstick, const Config& config, const Backend& backend)
    : yardstick_(std::move(yardstick)),
      backend_(backend),
      log_every_(std::max<std::int64_t>(1, config.train.log_every)) {
  if (log_rank() == 0 && !config.train.tensorboard_dir.empty())
    events_.emplace(config.train.tensorboard_dir, config.where("train.tensorboard_dir") + ": train.tensorboard_dir");
  if (run_dir.empty()) return;
  const std::string path = run_dir + "/metrics.jsonl";
  drop_half_line(path);
  file_.emplace(path, "lines");
  const int code = file_->open();
  if (code == EISDIR || code == EACCES || code == EPERM || code == ELOOP)
    input_error("{}: cannot be opened for appending ({}); expected a file, move what is there away", path,
                std::strerror(code));
}

Metrics::~Metrics() { set_status_line(""); }

void Metrics::write(const std::string& line) {
  if (file_) file_->append(line + "\n");
}

std::size_t Metrics::memory() {
  const auto now = std::chrono::steady_clock::now();
  if (memory_ == 0 || now - memory_asked_ >= std::chrono::seconds(1)) {
    memory_ = memory_used(backend_);
    memory_asked_ = now;
  }
  return memory_;
}

void Metrics::step(const Trainer& t, const StepResult& r, double seconds, std::int64_t total,
                   const std::optional<RankTimes>& ranks) {
  const double tokens_per_s = static_cast<double>(r.tokens) / seconds;
  const double mfu = yardstick_.mfu(t.flops_per_token * tokens_per_s);
  Json layers = Json::array();
  for (std::size_t l = 0; l < r.layers.size(); ++l)
    if (t.config.model.is_moe_layer(static_cast<std::int64_t>(l)))
      layers.push_back({{"layer", l},
                        {"load_max_over_mean", r.layers[l].load_max_over_mean},
                        {"router_entropy", r.layers[l].entropy},
                        {"aux_loss", r.layers[l].aux},
                        {"z_loss", r.layers[l].z},
                        {"tokens_per_expert", r.layers[l].assignments}});
  Json line{{"step", t.step}, {"tokens", t.tokens},       {"batch_size", r.samples},
            {"loss", r.loss}, {"aux_loss", r.aux_loss},   {"z_loss", r.z_loss},
            {"lr", r.lr},     {"grad_norm", r.grad_norm}, {"tokens_per_s", tokens_per_s},
            {"mfu", mfu},     {"step_ms", seconds * 1e3}, {"moe_layers", layers}};
  if (t.config.train.decoupled_lr >= 0) line["decoupled_lr"] = r.decoupled_lr;
  if (ranks) line["ranks_ms"] = ranks_object(*ranks);
  write(line.dump());

  if (events_) add_step(*events_, t, r, {seconds, yardstick_.flops() * mfu, mfu, memory()});

  // The first step of a process creates primitives and faults pages in, so it is left out of the average.
  const double each = seconds / static_cast<double>(r.samples);
  average_seconds_ = steps_timed_++ < 2 ? each : 0.9 * average_seconds_ + 0.1 * each;
  const bool shown = t.step % log_every_ == 0 || t.step == total || t.step == 1;
  if (log_rank() != 0 || (!shown && terminal_width() == 0)) return;
  const std::int64_t left = samples_in(t.config.train, t.consumed_samples, total - t.step);
  const StepPace pace{
      t.step, total, tokens_per_s, mfu, average_seconds_ * static_cast<double>(left), shown ? memory() : 0};
  if (shown) log_info("{}", step_line(t.config, r, pace));
  set_status_line(progress_bar(r, pace));
}

void Metrics::skipped(const Trainer& t, const StepResult& r, const std::string& culprit) {
  Json line{{"step", t.step + 1},
            {"tokens", t.tokens},
            {"skipped", r.skipped == Skipped::LossSpike ? "loss spike" : "not finite"},
            {"skipped_loss", r.loss},
            {"skipped_grad_norm", r.grad_norm},
            {"first_sample", t.consumed_samples - r.samples},
            {"samples", r.samples},
            {"in_a_row", t.skips.in_a_row},
            {"skipped_steps", t.skips.total}};
  if (r.skipped == Skipped::LossSpike)
    line["z_score"] = r.z_score;
  else
    line["culprit"] = culprit;
  write(line.dump());
  if (events_) add(*events_, t, {{"skipped-steps", static_cast<double>(t.skips.total)}}, {});
}

void Metrics::eval(const Trainer& t, const std::string& set, double loss, std::int64_t tokens, std::int64_t bytes) {
  Json line{{"step", t.step}, {"tokens", t.tokens}, {"eval", set}, {"eval_loss", loss}, {"eval_tokens", tokens}};
  std::string per_byte;
  if (bytes > 0) {
    const double nats = loss * static_cast<double>(tokens) / static_cast<double>(bytes);
    line["eval_loss_per_byte"] = nats;
    per_byte = fmt::format(", {:.4f} nats per byte", nats);
  }
  write(line.dump());
  if (events_) {
    // As Megatron names the one set that it has.
    const std::string tag = "lm loss validation" + (t.config.data.valid.size() > 1 ? " " + set : "");
    add(*events_, t, {{tag, loss}, {tag + " ppl", std::exp(std::min(20.0, loss))}}, {});
  }
  log_info("step {}  held-out {}: loss {:.4f} over {} tokens{}", t.step, set, loss, tokens, per_byte);
}

}  // namespace upcycle
