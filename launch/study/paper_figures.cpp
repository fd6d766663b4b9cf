#include "launch/study/paper_figures.h"

namespace upcycle {
namespace {

struct Series {
  const char* size;
  double duration;  // pretraining tokens per parameter
  std::vector<double> cpt, upcycled, gain;
};

const std::vector<double> kBudgets = {0.1, 0.2, 0.4, 0.8, 1.0};
const std::vector<Series> kSeries = {
    {"436M", 100, {2.197, 2.191, 2.169, 2.137, 2.134}, {2.213, 2.151, 2.110, 2.099, 2.039}, {-1, -3, 10, 15, 7}},
    {"436M", 230, {2.136, 2.113, 2.079, 2.081, 2.054}, {2.117, 2.066, 2.021, 1.946, 1.961}, {0.5, 9, 10, 25, 18}},
    {"436M", 460, {2.072, 2.047, 2.046, 2.013, 2.016}, {2.042, 1.976, 1.953, 1.923, 1.922}, {8, 5, 18, 20.5, 27}},
    {"1.4B", 100, {1.883, 1.866, 1.842, 1.826}, {1.879, 1.851, 1.813, 1.778}, {4, 4.5, 5.5, 5.7}},
    {"1.4B", 250, {1.812, 1.807, 1.794, 1.771}, {1.806, 1.762, 1.748, 1.686}, {8, 5.5, 12.5, 25.5}},
};

}  // namespace

Json paper_figures() {
  Json loss = Json::array(), gain = Json::array();
  for (const Series& s : kSeries)
    for (std::size_t i = 0; i < s.cpt.size(); ++i) {
      const Json point = {{"size", s.size}, {"duration", s.duration}, {"budget", kBudgets[i]}};
      loss.push_back(point);
      loss.back()["cpt"] = s.cpt[i];
      loss.back()["upcycled"] = s.upcycled[i];
      gain.push_back(point);
      gain.back()["accuracy_gain_percent"] = s.gain[i];
    }
  return {{"source", "arXiv 2411.08968, read off its plots by eye"}, {"loss", loss}, {"gain", gain}};
}

}  // namespace upcycle
