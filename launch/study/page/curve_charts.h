#pragma once
#include <map>
#include <string>
#include <vector>

#include "launch/charts/chart.h"

// Training curves of any runs: of a study's, or of the folders given to `upcycle plot`.
namespace upcycle::study_page {

struct Curve {
  std::vector<double> tokens, loss;
  std::vector<double> flops, seconds;  // of each point; empty: not known
};
struct TrainedRun {
  std::string name;    // data-run
  std::string legend;  // runs of the same legend look the same
  charts::Look look;
  bool aside = false;  // charts::Series
  Curve training;
  std::map<std::string, Curve> held_out;  // by name of the set
};

// Held-out loss of each set and training loss, against tokens, FLOPs and time. `sets`: in this order; "": no such.
std::vector<charts::Chart> curves_of(const std::vector<TrainedRun>& runs, const std::vector<std::string>& sets);
// The same as HTML.
std::string curve_charts(const std::vector<TrainedRun>& runs, const std::vector<std::string>& sets,
                         const std::string& caption);

// Expert load of one run: the busiest expert's load over the mean, and the router's entropy, one line for each layer.
struct LoadHistory {
  std::string run;
  int color = 0;
  std::vector<double> tokens;
  std::vector<double> layers;                               // their numbers
  std::vector<std::vector<double>> max_over_mean, entropy;  // [time][layer]
};
std::string load_charts(const LoadHistory& load, const std::string& caption);

// One line for each layer of values[time][layer]: from pale, the first, to strong, the last.
charts::Chart layer_chart(const std::string& key, const std::string& title, const std::string& y,
                          const std::string& run, int color, const std::vector<double>& tokens,
                          const std::vector<double>& layers, const std::vector<std::vector<double>>& values,
                          charts::Unit unit = charts::Unit::Number);

}  // namespace upcycle::study_page
