#include "launch/model_card.h"

#include <fmt/core.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/config/batch_ramp.h"
#include "core/config/parse.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/log.h"
#include "data/files.h"
#include "launch/model_files.h"
#include "launch/run_curves.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/model/params.h"
#include "parallel/models/family.h"
#include "parallel/models/hf_config.h"
#include "parallel/models/weight_type.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string last_name(const std::string& path) {
  const fs::path p(path);
  return (p.has_filename() ? p : p.parent_path()).filename().string();
}

// "12,345,678"
std::string grouped(std::int64_t n) {
  std::string text = std::to_string(n);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

std::string sizes(const ModelConfig& m, StoredType type, const Family& family) {
  const ParameterCount count = count_parameters(m);
  std::string text = fmt::format("| | |\n|---|---|\n| form | {} (`{}`), {} |\n| parameters | {}", family.name,
                                 family.model_type, weight_type(type).name, grouped(count.total));
  if (m.is_moe()) text += fmt::format(", of which a token uses {}", grouped(count.active));
  text += fmt::format(" |\n| layers | {}", m.num_hidden_layers);
  if (m.is_moe()) {
    std::int64_t layers = 0;
    for (std::int64_t l = 0; l < m.num_hidden_layers; ++l) layers += m.is_moe_layer(l) ? 1 : 0;
    text += fmt::format(", {} of them with experts |\n| experts | {}, {} per token, {} wide{} |\n| router | {}", layers,
                        m.num_local_experts, m.num_experts_per_tok, m.expert_size(),
                        m.shared_expert ? fmt::format(", beside a shared one, {} wide", m.shared_size()) : "",
                        m.router_softmax);
  }
  return text + fmt::format(" |\n| hidden size | {} |\n| vocabulary | {} |\n| longest sequence | {} |\n", m.hidden_size,
                            m.vocab_size, m.max_position_embeddings);
}

std::string recipe(const Config& c, const std::string& run) {
  std::string text;
  const UpcycleConfig& u = c.upcycle;
  if (!c.init.upcycle.empty() || (u.at_step >= 0 && c.model.is_moe())) {
    text += u.at_step >= 0 ? fmt::format("- upcycled in its step {}", u.at_step)
                           : fmt::format("- upcycled from `{}`", last_name(c.init.upcycle));
    text += fmt::format(": mode `{}`, scale `{}`, noise_std {}, drop_ratio {}, router_std {}, seed {}\n", u.mode,
                        u.scale, u.noise_std, u.drop_ratio, u.router_std, c.seed);
    const std::string file = run + "/upcycled.json";
    if (fs::is_regular_file(file)) {
      const std::string said = read_regular_text(file, 1 << 16);
      const Json report = nested_too_deeply(said) ? Json() : Json::parse(said, nullptr, false);
      if (report.is_object() && report.value("logit_change", Json()).is_number())
        text += fmt::format("- logits of a batch changed by {:.3g} (relative L2) by that\n",
                            report["logit_change"].get<double>());
    }
  } else if (!c.init.load.empty()) {
    text += fmt::format("- continued from `{}`\n", last_name(c.init.load));
  } else {
    text += fmt::format("- started from random weights, seed {}\n", c.seed);
  }
  return text;
}

std::string training(const Config& c, const CheckpointInfo& info) {
  const TrainConfig& t = c.train;
  std::string sets;
  for (const WeightedPath& p : c.data.train) sets += fmt::format("{}`{}`", sets.empty() ? "" : ", ", last_name(p.path));
  std::string text = fmt::format("- trained on {} tokens in {} steps{}\n", grouped(info.tokens), info.step,
                                 sets.empty() ? "" : " of " + sets);
  if (info.step > 0)
    text += fmt::format(
        "- {}, learning rate {:g} ({}{}), weight decay {}, {}{} sequences of {} tokens per step, {}; weights of the "
        "auxiliary and z losses {} and {}\n",
        t.optimizer, t.lr, t.schedule, t.schedule == "constant" ? "" : fmt::format(", to {:g}", t.min_lr),
        t.weight_decay, ramps_batch(t) ? fmt::format("{} to ", t.rampup_batch_size[0]) : "", t.global_batch_size,
        t.seq_length, c.dtype, c.model.router_aux_loss_coef, c.model.router_z_loss_coef);
  return text;
}

// The newest evaluation of each set that is not newer than the model.
std::string evaluation(const std::string& run, const CheckpointInfo& info) {
  if (!fs::is_regular_file(run + "/metrics.jsonl")) return "";
  constexpr std::size_t all = std::size_t{1} << 30;
  std::string rows;
  for (const auto& [name, curve] : read_run_curves(run, all).held_out) {
    std::size_t n = curve.tokens.size();
    while (n > 0 && curve.tokens[n - 1] > static_cast<double>(info.tokens)) --n;
    if (n > 0)
      rows += fmt::format("| {} | {:.4f} | {:.4g} | {} |\n", name, curve.loss[n - 1], std::exp(curve.loss[n - 1]),
                          grouped(static_cast<std::int64_t>(curve.tokens[n - 1])));
  }
  if (rows.empty()) return "";
  return "\n## Evaluation\n\n| held-out set | loss, nats per token | perplexity | after training tokens |\n"
         "|---|---|---|---|\n" +
         rows;
}

// The model can be exported whatever is wrong with the files that tell its history.
std::string history(const std::string& dir) try {
  const StepFolder step = look_at_step(dir);
  const CheckpointInfo& info = step.manifest.info;
  if (info.config.empty()) return "";
  const std::string run = fs::path(step.path).lexically_normal().parent_path().string();
  const Config c = parse_config_text(info.config, step.path, {});
  return "\n## Recipe\n\n" + recipe(c, run) + training(c, info) + evaluation(run, info);
} catch (const InputError& e) {
  log_warn("README.md says nothing of the model's history: {}", e.what());
  return "";
}

}  // namespace

std::string model_card(const TensorSource& source, const std::string& dir, const std::string& out, StoredType type,
                       const std::string& model_type) {
  const ModelConfig& m = source.model();
  const std::string name = last_name(out);
  return fmt::format(
      "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- upcycle\n{}---\n# {}\n\n{}{}\n"
      "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM\n\n"
      "model = AutoModelForCausalLM.from_pretrained(\"{}\")\n```\n",
      m.is_moe() ? "- mixture-of-experts\n" : "", name, sizes(m, type, exported_family(m, model_type)),
      is_checkpoint(dir) ? history(dir) : "", name);
}

}  // namespace upcycle
