#pragma once
#include <string>
#include <vector>

#include "launch/study/measures.h"
#include "launch/study/rates.h"

namespace upcycle {

// Serving of one arm's model (or of the dense one: arm "").
struct ServingResult {
  std::string size, arm;
  std::string source;   // "measured" | "predicted"
  std::string machine;  // name of the machine
  std::int64_t devices = 1;
  double requests_per_s = 0, tokens_per_s = 0;  // when there is always a next request; tokens in and out
  double latency_alone = 0;                     // seconds
  Json curve;                                   // [{"request_rate", "tokens_per_s", "latency", "sustained"}]
};

// report.json, whose keys launch/README.md lists; everything that report.html shows is in it. `rates`: what training
// costs where serving was measured here.
Json make_report(const Study& study, const std::vector<StudyResult>& runs, const std::vector<ServingResult>& serving,
                 const TrainingRates& rates = {});
std::string runs_csv(const Json& report);  // one line per run (runs_csv.cpp)

// One self-contained page that needs no network. `report`: as make_report gives it, perhaps read back from a file.
std::string report_html(const Json& report);
// Its first plots, the gain of the candidate over the baseline alone and beside the paper's, as one SVG file.
std::string gain_svg(const Json& report);

}  // namespace upcycle
