#include "launch/bench/measured_config.h"

#include <algorithm>

#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/rng.h"
#include "launch/check_fits.h"
#include "launch/run_setup.h"
#include "parallel/comm/mesh.h"

namespace upcycle {

Config config_to_measure(const std::string& file, const std::vector<std::string>& overrides, std::int64_t steps) {
  Config c = parse_config(file, overrides);
  const std::string name = file.empty() ? "the config" : file;
  c.data = {};
  c.checkpoint = {};
  c.debug = {};
  c.train.steps = std::max(steps, c.upcycle.at_step + 1);
  c.train.tokens = c.train.warmup_steps = c.train.warmup_tokens = 0;
  c.train.schedule = "constant";
  c.train.rampup_batch_size.clear();
  c.train.eval_every = 0;
  if (c.model.hidden_size == 0 && !(c.init.load.empty() && c.init.upcycle.empty())) {
    const Mesh one = make_single_mesh();
    c = planned_run(set_up_run(std::move(c), name, *one.world, Purpose::Plan)).config;
  }
  c.init = {};
  c.upcycle = {};
  c.train.steps = steps;
  check_model(c.model, name);
  check_train(c);
  check_kernel_limits(c.device, c.model, name);
  return c;
}

SequenceSource random_sequences(std::int64_t vocab) {
  return [V = static_cast<std::uint64_t>(vocab)](std::int64_t index, std::span<std::int32_t> tokens,
                                                 std::span<std::int32_t> targets) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<std::int32_t>(rng::below(V, 1, static_cast<std::uint64_t>(index), i));
      targets[i] = static_cast<std::int32_t>(rng::below(V, 1, static_cast<std::uint64_t>(index), i + 1));
    }
  };
}

}  // namespace upcycle
