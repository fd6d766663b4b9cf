#include "launch/study/break_even.h"

#include <algorithm>
#include <cmath>

#include "launch/study/wording.h"

namespace upcycle {
namespace {

std::vector<DenseRun> by_cost(std::vector<DenseRun> runs) {
  std::erase_if(runs, [](const DenseRun& r) { return !(r.seconds > 0) || std::isnan(r.loss); });
  std::sort(runs.begin(), runs.end(), [](const DenseRun& a, const DenseRun& b) {
    return a.seconds != b.seconds ? a.seconds < b.seconds : a.loss < b.loss;
  });
  return runs;
}

// y at x on the line through (x0, y0) and (x1, y1).
double on_line(double x, double x0, double y0, double x1, double y1) {
  return x1 == x0 ? y0 : y0 + (x - x0) / (x1 - x0) * (y1 - y0);
}

// What it costs the dense model to reach a loss.
struct Reached {
  enum { AtMost, Exactly, AtLeast } kind = Exactly;
  double seconds = 0;
};
Reached cost_of(double loss, const std::vector<DenseRun>& runs) {
  if (runs.front().loss <= loss)
    return {runs.front().loss == loss ? Reached::Exactly : Reached::AtMost, runs[0].seconds};
  for (std::size_t i = 1; i < runs.size(); ++i)
    if (runs[i].loss <= loss)
      return {Reached::Exactly, std::exp(on_line(loss, runs[i - 1].loss, std::log(runs[i - 1].seconds), runs[i].loss,
                                                 std::log(runs[i].seconds)))};
  return {Reached::AtLeast, runs.back().seconds};
}

std::optional<double> loss_at(double seconds, const std::vector<DenseRun>& runs) {
  if (runs.empty() || seconds < runs.front().seconds || seconds > runs.back().seconds) return {};
  for (std::size_t i = 1; i < runs.size(); ++i)
    if (seconds <= runs[i].seconds)
      return on_line(std::log(seconds), std::log(runs[i - 1].seconds), runs[i - 1].loss, std::log(runs[i].seconds),
                     runs[i].loss);
  return runs.front().loss;
}

bool flattens(const std::vector<DenseRun>& runs) {
  return runs.size() > 1 && runs.back().loss >= runs[runs.size() - 2].loss;
}

BreakEven words(std::optional<double> tokens, const std::string& answer, const std::string& pays) {
  return {tokens, {}, answer, pays};
}

// Serving the MoE costs more: it pays up to n* served tokens.
BreakEven dearer_to_serve(const Reached& dense, double extra, double slope, const std::vector<DenseRun>& runs) {
  const double n = extra / slope;
  const std::string shown = two_digits(n);
  if (dense.kind == Reached::AtLeast && flattens(runs))
    return words({},
                 "never, as far as these runs show: continued pretraining does not reach the MoE's loss, and its own "
                 "no longer falls with the budget",
                 "and as far as these runs show it always pays: continued pretraining does not reach its loss, and no "
                 "longer gains by a larger budget");
  if (dense.kind == Reached::AtLeast && extra > 0)
    return words(
        n,
        fmt::format("more than {} served tokens: no continued pretraining here reaches the MoE's loss, and the "
                    "largest cost counts as a lower bound",
                    shown),
        fmt::format("so it pays if fewer than {} tokens are served, and perhaps beyond: no continued "
                    "pretraining here reaches its loss",
                    shown));
  if (dense.kind == Reached::AtLeast)
    return words({}, "not known: no continued pretraining here reaches the MoE's loss, and none cost as much to train",
                 "and from how many served tokens on it no longer pays is not known: no continued pretraining here "
                 "reaches its loss, and none cost as much to train");
  if (extra <= 0)
    return words({},
                 "at once: continued pretraining reaches the MoE's loss with no more training, so the MoE never pays",
                 "and it never pays: continued pretraining reaches its loss with no more training");
  if (dense.kind == Reached::AtMost)
    return words(
        n,
        fmt::format("before {} served tokens: the smallest budget of continued pretraining already reaches the "
                    "MoE's loss",
                    shown),
        fmt::format("so it pays at most if fewer than {} tokens are served", shown));
  return words(n, fmt::format("after {} served tokens", shown),
               fmt::format("so it pays if fewer than {} tokens are served", shown));
}

// Serving the MoE costs no more: it pays from some number of served tokens on.
BreakEven no_dearer_to_serve(const Reached& dense, double extra, double slope) {
  const double n = slope < 0 ? extra / slope : 0;
  const std::string shown = two_digits(n);
  if (extra >= 0 && dense.kind != Reached::AtMost)
    return words({}, "never: the MoE costs no more to serve, and no more to train to this loss, so it always pays",
                 "and it always pays: it costs no more to serve, and no more to train to its loss");
  if (extra < 0 && slope < 0) {
    const char* bound = dense.kind == Reached::AtLeast ? "at most " : dense.kind == Reached::AtMost ? "at least " : "";
    return words(n,
                 fmt::format("the other way round: the MoE costs more to train and less to serve, and pays from {}{} "
                             "served tokens on",
                             bound, shown),
                 fmt::format("so it pays from {}{} served tokens on", bound, shown));
  }
  if (extra < 0 && dense.kind != Reached::AtLeast)
    return words({}, "at once: continued pretraining reaches the MoE's loss with less training, so the MoE never pays",
                 "and it never pays: continued pretraining reaches its loss with less training");
  return words({}, "not known: the MoE's loss lies beyond those of the continued pretraining here",
               "and whether it pays is not known: its loss lies beyond those of the continued pretraining here");
}

double round_below(double x) {  // 1, 2 or 5 times a power of ten
  const double unit = std::pow(10, std::floor(std::log10(x)));
  return unit * (x >= 5 * unit ? 5 : x >= 2 * unit ? 2 : 1);
}

}  // namespace

const char* const kBreakEvenFormula =
    "n* = (C_cpt(L_moe) - C_moe) / (c_moe - c_dense). C_moe: device-seconds to train the MoE from the dense model; "
    "L_moe: "
    "its held-out loss; C_cpt(L): device-seconds of continued pretraining that reaches L, interpolated (linear in log "
    "cost) between runs of the same size and duration whose learning rate has decayed, never beyond them; c_moe, "
    "c_dense: device-seconds of a served token. Up to n* served tokens the MoE is the cheaper way to its loss. Sweeps "
    "of "
    "learning rates are left out on both sides.";

BreakEven break_even(const BreakEvenInput& in) {
  const std::vector<DenseRun> runs = by_cost(in.dense);
  if (!(in.moe_per_token > 0) || !(in.dense_per_token > 0))
    return words({}, "not known: what serving costs is not known",
                 "and when it pays is not known, because what serving costs is not");
  if (runs.empty() || !(in.moe_training > 0) || std::isnan(in.moe_loss))
    return words({}, "not known: runs of this size and duration are missing",
                 "and when it pays is not known, because runs are missing");
  const Reached dense = cost_of(in.moe_loss, runs);
  const double extra = dense.seconds - in.moe_training, slope = in.moe_per_token - in.dense_per_token;
  BreakEven result = slope > 0 ? dearer_to_serve(dense, extra, slope, runs) : no_dearer_to_serve(dense, extra, slope);
  if (dense.kind == Reached::Exactly) result.dense_seconds = dense.seconds;
  return result;
}

std::vector<EqualTotal> equal_total(const BreakEvenInput& in) {
  const std::vector<DenseRun> runs = by_cost(in.dense);
  if (runs.empty() || !(in.moe_training > 0) || !(in.moe_per_token > 0) || !(in.dense_per_token > 0) ||
      std::isnan(in.moe_loss))
    return {};
  // Where the dense model's share of the total has grown to the longest run, or shrunk to the shortest; else where
  // serving has cost as much as training.
  const double slope = in.moe_per_token - in.dense_per_token;
  const double end = slope > 0   ? (runs.back().seconds - in.moe_training) / slope
                     : slope < 0 ? (runs.front().seconds - in.moe_training) / slope
                                 : 0;
  const double most = end > 0 ? end : in.moe_training / in.moe_per_token;
  std::vector<double> ladder = {0};
  const double first = round_below(most / 200);
  for (double n = first; n <= most * 2.5; n = round_below(n * 2.6)) ladder.push_back(n);
  std::vector<EqualTotal> result;
  for (const double n : ladder) {
    const double total = in.moe_training + n * in.moe_per_token;
    result.push_back({n, total, loss_at(total - n * in.dense_per_token, runs), in.moe_loss});
  }
  return result;
}

}  // namespace upcycle
