#include "launch/bench/serve_plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/suggest.h"
#include "launch/options.h"

namespace upcycle {
namespace {

// What the paper served (arXiv 2411.08968), and what a quick run asks of a context at most.
constexpr std::int64_t kPaperInput = 3500, kPaperOutput = 300, kPaperContext = 4096;
constexpr std::int64_t kQuickInput = 256, kQuickOutput = 32;

std::vector<std::int64_t> batches_of(const LoadOptions& o) {
  if (o.batches.empty())
    return o.thorough ? std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256}
                      : std::vector<std::int64_t>{1, 8, 32};
  std::vector<std::int64_t> batches;
  for (std::size_t begin = 0; begin <= o.batches.size();) {
    const std::size_t end = std::min(o.batches.find(',', begin), o.batches.size());
    std::int64_t B = 0;
    const auto [stop, error] = std::from_chars(o.batches.data() + begin, o.batches.data() + end, B);
    if (error != std::errc{} || stop != o.batches.data() + end || B < 1 || B > 65536)
      input_error("command line: --batches: found {}, expected batch sizes such as 1,8,32", quote_text(o.batches));
    batches.push_back(B);
    begin = end + 1;
  }
  return batches;
}

void check(const LoadOptions& o) {
  if (o.input_len < 0 || o.output_len < 0)
    input_error("command line: --input-len, --output-len: found {} and {}, expected 1 or more (0: chosen)", o.input_len,
                o.output_len);
  if (!o.requests.empty() && (o.input_len > 0 || o.output_len > 0 || o.random_range_ratio > 0))
    input_error(
        "command line: found --requests and lengths, expected one of them: the file says how long requests are");
  if (!(o.random_range_ratio >= 0 && o.random_range_ratio < 1))
    input_error("command line: --random-range-ratio: found {}, expected 0 or more, below 1", o.random_range_ratio);
  if (!(o.burstiness >= 0.01 && o.burstiness <= 1e6))
    input_error("command line: --burstiness: found {}, expected 0.01 to 1e6 (1: Poisson arrivals)", o.burstiness);
  if (!(o.rate_step >= 0) || o.rate_step > 1e6)
    input_error("command line: --rate-step: found {}, expected requests per second (0: a part of the capacity)",
                o.rate_step);
  if (!(o.seconds >= 1) || o.seconds > 1e6)
    input_error("command line: --seconds: found {}, expected 1 or more", o.seconds);
  if (o.repetitions < 0 || o.repetitions > 100)
    input_error("command line: --repetitions: found {}, expected 1 to 100 (0: chosen)", o.repetitions);
  if (o.seed < 0) input_error("command line: --seed: found {}, expected 0 or more", o.seed);
}

}  // namespace

void declare(Options& options, LoadOptions& o) {
  options.option("--input-len", o.input_len, "tokens of a prompt; 0: from the context");
  options.option("--output-len", o.output_len, "new tokens of a request; 0: from the context");
  options.option("--random-range-ratio", o.random_range_ratio,
                 "r: lengths are drawn uniformly from (1 - r) to (1 + r) times these");
  options.option("--requests", o.requests,
                 "file with one JSON object per line: {\"prompt_len\", \"output_len\"} or {\"prompt\": text or ids, "
                 "\"max_tokens\"}; taken in turn");
  options.option("--tokenizer", o.tokenizer, "for text in that file; by default the model's own");
  options.option("--burstiness", o.burstiness, "shape of the gamma distributed gaps between arrivals; 1: Poisson");
  options.option("--rate-step", o.rate_step, "requests/s between the rates; 0: a part of the first server's capacity");
  options.option("--repetitions", o.repetitions, "of each rate, with other arrivals; 0: 2, or 3 if thorough");
  options.option("--batches", o.batches,
                 "of the offline table; by default 1,8,32, or 1,2,4 to 256 if thorough; those above the sequences that "
                 "run at once are left out");
  options.option("--goodput", o.goodput, "limits of a good request in ms, such as ttft:200,tpot:50,e2el:1000");
  options.option("--seconds", o.seconds, "that all of it takes at most, roughly, if not thorough");
  options.option("--seed", o.seed, "of arrivals, lengths and prompts; with --url another each time if not given");
  options.flag("--thorough", o.thorough,
               "windows of at least 60 s and 5 latencies, lengths as in the paper; by default all takes three minutes");
}

BenchPlan plan_of(const LoadOptions& o, std::int64_t context, int servers) {
  check(o);
  BenchPlan plan;
  plan.goodput = parse_goodput(o.goodput);
  plan.batches = batches_of(o);
  plan.thorough = o.thorough;
  plan.repetitions = o.repetitions > 0 ? o.repetitions : o.thorough ? 3 : 2;
  plan.most_rates = 40;
  plan.rate_step = o.rate_step;
  if (!o.thorough) plan.seconds = o.seconds / servers;
  Workload& w = plan.workload;
  w.seed = static_cast<std::uint64_t>(o.seed);
  w.burstiness = o.burstiness;
  w.range_ratio = o.random_range_ratio;
  if (!o.requests.empty()) return plan;
  plan.may_shorten = o.input_len == 0 && o.output_len == 0;
  const double part = std::min(1.0, static_cast<double>(context) / kPaperContext) / (1 + o.random_range_ratio);
  const auto of_context = [&](std::int64_t paper, std::int64_t quick) {
    const auto len = static_cast<std::int64_t>(static_cast<double>(paper) * part);
    return std::max<std::int64_t>(1, o.thorough ? len : std::min(len, quick));
  };
  w.input_len = o.input_len > 0 ? o.input_len : of_context(kPaperInput, kQuickInput);
  w.output_len = o.output_len > 0 ? o.output_len : of_context(kPaperOutput, kQuickOutput);
  if (context > 0 && longest_request(w) > context)
    input_error(
        "command line: --input-len, --output-len: found requests of up to {} tokens, expected at most {}, what "
        "the models or --max-model-len allow",
        longest_request(w), context);
  return plan;
}

std::int64_t longest_sequence(const BenchPlan& plan, std::int64_t context, std::int64_t max_num_batched_tokens) {
  const Workload& w = plan.workload;
  const std::int64_t largest = *std::max_element(plan.batches.begin(), plan.batches.end());
  // The offline table's sequences go on decoding while the last prompts of the batch are read.
  const std::int64_t rows_of_a_step = max_num_batched_tokens > 0 ? max_num_batched_tokens : 2048;
  return std::min(context, longest_request(w) + 16 + 2 * largest * w.input_len / rows_of_a_step);
}

}  // namespace upcycle
