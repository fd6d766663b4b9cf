#include "launch/bench/workload.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace upcycle {
namespace {

std::uint64_t stream(const char* what, std::uint64_t run) { return rng::key_of(what) + run; }

// A draw of the gamma distribution with mean 1: Marsaglia and Tsang (2000), by rejection, from shapes of 1 on; below, a
// draw of shape + 1 is scaled.
double draw_gap(double shape, std::uint64_t seed, std::uint64_t run, std::uint64_t i) {
  if (shape == 1) return -std::log(rng::uniform(seed, stream("gap", run), i));
  const double boosted = shape < 1 ? shape + 1 : shape, d = boosted - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (std::uint64_t attempt = 0;; ++attempt) {
    const std::uint64_t element = i << 16 | attempt;
    const double x = rng::normal(seed, stream("gap's normal", run), element), v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    const double u = rng::uniform(seed, stream("gap's acceptance", run), element);
    if (std::log(u) >= x * x / 2 + d - d * v + d * std::log(v)) continue;
    const double scale = shape < 1 ? std::pow(rng::uniform(seed, stream("gap", run), i), 1 / shape) : 1;
    return d * v * scale / shape;
  }
}

std::int64_t shortest(double len, double ratio) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(len * (1 - ratio))));
}
std::int64_t longest(double len, double ratio) { return static_cast<std::int64_t>(std::ceil(len * (1 + ratio))); }

std::int64_t draw_length(std::int64_t len, const Workload& w, const char* what, std::uint64_t run, std::uint64_t i) {
  const auto mean = static_cast<double>(len);
  const std::int64_t least = shortest(mean, w.range_ratio), most = longest(mean, w.range_ratio);
  return least + static_cast<std::int64_t>(
                     rng::below(static_cast<std::uint64_t>(most - least + 1), w.seed, stream(what, run), i));
}

}  // namespace

void use_requests(Workload& w, std::vector<FileRequest> file) {
  w.file = std::move(file);
  w.input_len = w.output_len = 0;
  for (const FileRequest& r : w.file) {
    w.input_len += r.prompt_len;
    w.output_len += r.output_len;
  }
  const auto n = static_cast<std::int64_t>(w.file.size());
  w.input_len = std::max<std::int64_t>(1, w.input_len / n);
  w.output_len = std::max<std::int64_t>(1, w.output_len / n);
}

std::int64_t longest_request(const Workload& w) {
  if (w.file.empty())
    return longest(static_cast<double>(w.input_len), w.range_ratio) +
           longest(static_cast<double>(w.output_len), w.range_ratio);
  std::int64_t most = 0;
  for (const FileRequest& r : w.file) most = std::max(most, r.prompt_len + r.output_len);
  return most;
}

std::vector<std::int32_t> random_prompt(std::int64_t len, std::int64_t vocab_size, std::uint64_t seed,
                                        std::uint64_t key, std::uint64_t id) {
  std::vector<std::int32_t> prompt(static_cast<std::size_t>(len));
  for (std::uint64_t t = 0; t < prompt.size(); ++t)
    prompt[t] = static_cast<std::int32_t>(rng::below(static_cast<std::uint64_t>(vocab_size), seed, key, id << 24 | t));
  return prompt;
}

std::vector<double> draw_arrivals(const Workload& w, double rate, double seconds, std::uint64_t run) {
  std::vector<double> arrivals;
  double at = 0;
  for (std::uint64_t i = 0;; ++i) {
    at += draw_gap(w.burstiness, w.seed, run, i) / rate;
    if (at >= seconds) return arrivals;
    arrivals.push_back(at);
  }
}

std::vector<TimedRequest> draw_requests(const Workload& w, const std::vector<double>& arrivals, std::uint64_t run) {
  std::vector<TimedRequest> requests(arrivals.size());
  for (std::uint64_t i = 0; i < arrivals.size(); ++i) {
    Request& r = requests[i].request;
    requests[i].arrival = arrivals[i];
    r.id = static_cast<std::int64_t>(i);
    r.sampling.temperature = 0;
    const FileRequest* given = w.file.empty() ? nullptr : &w.file[i % w.file.size()];
    r.max_tokens = given != nullptr ? given->output_len : draw_length(w.output_len, w, "output length", run, i);
    if (given != nullptr && !given->ids.empty()) {
      r.prompt = given->ids;
      continue;
    }
    const std::int64_t len = given != nullptr ? given->prompt_len : draw_length(w.input_len, w, "input length", run, i);
    r.prompt = random_prompt(len, w.vocab_size, w.seed, stream("prompt", run), i);
  }
  return requests;
}

}  // namespace upcycle
