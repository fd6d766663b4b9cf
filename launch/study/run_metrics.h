#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "launch/study/study.h"

namespace upcycle {

// RUN/metrics.jsonl as the report shows it: "curve", "held_out" and "load" of a run. A step that was trained again
// after a crash counts as its last line says. Without the file: empty curves.
struct RunCurves {
  Json curve, held_out, load;
};
RunCurves read_curves(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& sets);

// Rows of numbers in order, thinned to at most `most`: means of pieces of equal length (but for one row).
std::vector<std::vector<double>> thinned(const std::vector<std::vector<double>>& rows, std::size_t most);

}  // namespace upcycle
