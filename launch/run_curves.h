#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace upcycle {

// What RUN/metrics.jsonl says of a run's course. Steps that were done again after a crash count once, as they were done
// last; of more steps than can be drawn there are the means of pieces of equal length.
struct RunCurves {
  struct Curve {
    std::vector<double> tokens, loss, seconds;  // seconds: in the steps up to this one
    std::vector<double> flops;                  // empty without RUN/run.json
  };
  Curve training;
  std::map<std::string, Curve> held_out;  // by the set's name
  std::vector<double> load_tokens, layers;
  std::vector<std::vector<double>> max_over_mean, entropy;  // [time][layer]; empty for a dense run
  // Of the layer's assignments, [time][layer][expert]; `share_tokens` of each time. Empty where the lines do not say.
  std::vector<double> share_tokens;
  std::vector<std::vector<std::vector<double>>> shares;
};
// At most `most` points of each curve. InputError: no such folder, no metrics.jsonl or no step in it, or a line that is
// none of `upcycle train`.
RunCurves read_run_curves(const std::string& run, std::size_t most = 400);

// Of a run that has ended.
struct RunEnd {
  double loss = 0;          // mean over the last steps
  double tokens_per_s = 0;  // median over all steps
};
// InputError as read_run_curves.
RunEnd read_run_end(const std::string& run, std::int64_t last_steps);

// Rows of the same number of values, as means of at most `most` pieces of equal length.
std::vector<std::vector<double>> thinned(const std::vector<std::vector<double>>& rows, std::size_t most);

}  // namespace upcycle
