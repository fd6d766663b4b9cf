#include "launch/run_summary.h"

#include <fmt/format.h>

#include <iterator>

#include "core/config/batch_ramp.h"
#include "parallel/model/params.h"

namespace upcycle {
namespace {

// 1234567 as "1.23 M".
std::string short_number(double x) {
  const char* const units[] = {"", " k", " M", " G", " T", " P"};
  std::size_t i = 0;
  for (; x >= 1000 && i + 1 < std::size(units); ++i) x /= 1000;
  return i == 0 ? fmt::format("{:.0f}", x) : fmt::format("{:.3g}{}", x, units[i]);
}

}  // namespace

std::string run_summary(const Config& c, const Layout& l, const Trained& done, const std::vector<MemoryClass>& plan,
                        double peak_flops) {
  const ModelConfig& m = c.model;
  const ParameterCount count = count_parameters(m);
  const TrainConfig& t = c.train;
  const std::int64_t tokens = t.global_batch_size * t.seq_length, steps = total_steps(t, done);
  std::string text = fmt::format("model: H {}, F {}, L {}, N {}, K {}, V {}", m.hidden_size, m.intermediate_size,
                                 m.num_hidden_layers, m.num_attention_heads, m.kv_heads(), m.vocab_size);
  if (m.is_moe())
    text +=
        fmt::format(", {} experts of {}, {} per token", m.num_local_experts, m.expert_size(), m.num_experts_per_tok);
  text += fmt::format("; {} parameters", short_number(static_cast<double>(count.total)));
  if (m.is_moe()) text += fmt::format(", {} active per token", short_number(static_cast<double>(count.active)));
  text += fmt::format(", {} on {}; world {} = tp {} x dp {}", c.dtype, c.device, l.world, l.tp, l.dp);
  if (m.is_moe()) text += fmt::format(" (experts: etp {} x ep {} x edp {})", l.etp, l.ep, l.edp);
  std::size_t bytes = 0;
  for (const MemoryClass& one : plan) bytes += one.bytes;
  text += fmt::format("; {} steps of {}{} tokens = {}", steps,
                      ramps_batch(t) ? fmt::format("{} to ", t.rampup_batch_size[0] * t.seq_length) : "", tokens,
                      short_number(static_cast<double>(total_tokens(t, done))));
  if (ramps_batch(t))
    text += fmt::format(" (batch: {} sequences, {} more at a time, {} after {})", t.rampup_batch_size[0],
                        t.rampup_batch_size[1], t.global_batch_size, t.rampup_batch_size[2]);
  text += fmt::format("; {:.0f} MiB per rank", static_cast<double>(bytes) / (1 << 20));
  text += fmt::format("; mfu of {}FLOP/s, measured", short_number(peak_flops));
  if (!c.checkpoint.dir.empty()) text += "; config: " + c.checkpoint.dir + "/run.json";
  return text;
}

}  // namespace upcycle
