#include "launch/plan_fit.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "launch/size_text.h"
#include "parallel/serve/machine.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kRows = 12, kReasons = 6, kLayouts = 4;  // that are printed

std::string text_of(const Layout& l) { return fmt::format("tp={} ep={} etp={}", l.tp, l.ep, l.etp); }

Json to_json(const FitOption& o) {
  return {{"tp", o.layout.tp},
          {"ep", o.layout.ep},
          {"etp", o.layout.etp},
          {"micro_batch_size", o.micro_batch_size},
          {"recompute", o.recompute},
          {"memory", o.bytes},
          {"largest_class", o.largest},
          {"largest_class_bytes", o.largest_bytes},
          {"seconds",
           {{"products", o.time.products},
            {"collectives", o.time.collectives},
            {"offload", o.time.offload},
            {"step", o.time.total()}}}};
}

void print_row(const FitOption& o, const FitLimits& limits, double tokens) {
  const auto memory = static_cast<double>(limits.memory);
  fmt::print(
      "| {:<20} | {:>5} | {:<9} | {:>11} | {:>3.0f} % | {:>8.3g} | {:>11.3g} | {:>7.3g} | {:>7.3g} | {:>9.4g} |\n",
      text_of(o.layout), o.micro_batch_size, o.recompute, size_text(o.bytes),
      100 * (1 - static_cast<double>(o.bytes) / memory), o.time.products, o.time.collectives, o.time.offload,
      o.time.total(), tokens / o.time.total());
}

void print_head() {
  fmt::print(
      "| layout               | micro | recompute | memory      | free  | products | collectives | offload | step, s | "
      "tokens/s  |\n|--|--|--|--|--|--|--|--|--|--|\n");
}

void print_refused(const Fit& fit) {
  if (fit.refused.empty()) return;
  fmt::print("\nnot possible:\n");
  for (std::size_t i = 0; i < std::min(kReasons, fit.refused.size()); ++i) {
    const auto& [reason, layouts] = fit.refused[i];
    std::string names;
    for (std::size_t j = 0; j < std::min(kLayouts, layouts.size()); ++j)
      names += (names.empty() ? "" : ", ") + text_of(layouts[j]);
    if (layouts.size() > kLayouts) names += fmt::format(" and {} more", layouts.size() - kLayouts);
    fmt::print("  {}: {}\n", names, reason);
  }
  if (fit.refused.size() > kReasons)
    fmt::print("  and {} other reasons (--json has all)\n", fit.refused.size() - kReasons);
}

}  // namespace

NamedRates rates_of_h100(double products) {
  return {
      {products, 3.35e12, 367e9, kNetworkRate, 6e-6, kHostRate, 1}, "an H100 SXM's, products at --mfu of --peak", true};
}

NamedRates rates_of(const std::string& machine_file, DType dtype) {
  const Machine m = read_machine(machine_file);
  return {{m.product_rate(dtype), m.memory_rate, m.link_rate, kNetworkRate, m.link_latency, kHostRate, 1},
          machine_file + ": " + m.name};
}

void print_fit(const PlannedRun& run, const FitLimits& limits, const NamedRates& named, bool json) {
  const StepRates& rates = named.rates;
  const Fit fit = fit_layouts(run, limits, rates);
  const std::vector<Remedy> remedies = fit.fits.empty() ? find_remedies(run, limits, rates) : std::vector<Remedy>{};
  const TrainConfig& train = run.config.train;
  const auto tokens = static_cast<double>(train.global_batch_size * train.seq_length);
  if (json) {
    Json j{{"world", limits.world}, {"memory_given", limits.memory}, {"tokens_per_step", tokens}};
    for (const char* key : {"fits", "too_large", "not_possible", "remedies"}) j[key] = Json::array();
    for (const FitOption& o : fit.fits) j["fits"].push_back(to_json(o));
    for (const FitOption& o : fit.too_large) j["too_large"].push_back(to_json(o));
    for (const auto& [reason, layouts] : fit.refused) {
      Json names = Json::array();
      for (const Layout& l : layouts) names.push_back(text_of(l));
      j["not_possible"].push_back({{"reason", reason}, {"layouts", names}});
    }
    for (const Remedy& remedy : remedies)
      j["remedies"].push_back({{"keys", remedy.keys}, {"best", to_json(remedy.best)}});
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{} ranks of {}, {} in one machine; {:.0f} sequences of {} tokens a step\n", limits.world,
             size_text(limits.memory), rates.ranks_per_machine, static_cast<double>(train.global_batch_size),
             train.seq_length);
  fmt::print(
      "a step: products at {:.4g} TFLOP/s or {:.4g} GB/s of memory, then collectives at {:.4g} GB/s ({:.4g} where they "
      "leave the machine), then what is offloaded; nothing beside another ({})\n\n",
      rates.products / 1e12, rates.memory / 1e9, rates.link / 1e9, rates.network / 1e9, named.from);
  if (run.config.device == "cpu" && named.of_h100)
    fmt::print(
        "the memory is of device = cpu, the times are not: --device=cuda counts a GPU's memory, --machine=FILE takes "
        "the rates of a machine (upcycle bench calibrate)\n\n");
  if (!fit.fits.empty()) {
    fmt::print("fits, the fastest first:\n");
    print_head();
    for (std::size_t i = 0; i < std::min(kRows, fit.fits.size()); ++i) print_row(fit.fits[i], limits, tokens);
    if (fit.fits.size() > kRows) fmt::print("and {} slower ones (--json has all)\n", fit.fits.size() - kRows);
  }
  if (!fit.too_large.empty()) {
    fmt::print("\ndoes not fit, even with all recomputed:\n");
    for (std::size_t i = 0; i < std::min(kRows, fit.too_large.size()); ++i) {
      const FitOption& o = fit.too_large[i];
      fmt::print("  {:<20} {} too much: {}, of them {} {}\n", text_of(o.layout), size_text(o.bytes - limits.memory),
                 size_text(o.bytes), o.largest, size_text(o.largest_bytes));
    }
    if (fit.too_large.size() > kRows)
      fmt::print("  and {} larger ones (--json has all)\n", fit.too_large.size() - kRows);
  }
  print_refused(fit);
  if (!fit.fits.empty()) return;
  fmt::print("\nnothing fits. {}\n", remedies.empty()
                                         ? "Nor does it with any one of the changes that are known: use more "
                                           "ranks, or several of train.gradient_dtype, train.moment_dtype, "
                                           "train.master_dtype, train.zero_stage, train.optimizer_offload, "
                                           "fewer experts (model.num_local_experts) or fewer MoE layers "
                                           "(model.moe_every_n_layers) together"
                                         : "It would with one of these:");
  for (const Remedy& remedy : remedies) {
    std::string keys;
    for (const std::string& key : remedy.keys) keys += " --" + key;
    const FitOption& o = remedy.best;
    fmt::print("  {}: {}, micro batch {}, recompute {}: {}, {:.3g} s a step\n", keys.substr(1), text_of(o.layout),
               o.micro_batch_size, o.recompute, size_text(o.bytes), o.time.total());
  }
}

}  // namespace upcycle
