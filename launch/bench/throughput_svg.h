#pragma once
#include <string>
#include <vector>

namespace upcycle {

struct Curve {
  std::string name;
  struct Point {
    double latency = 0, tokens_per_s = 0;  // mean end-to-end latency, seconds
    bool sustained = false;
  };
  std::vector<Point> points;  // in the order of the request rates
};

// Throughput against latency, one line for each curve (Figure 2 of arXiv 2411.08968), as one self-contained SVG that
// follows the reader's light or dark mode. Filled points are sustained rates, hollow ones are not.
std::string throughput_svg(const std::vector<Curve>& curves);

}  // namespace upcycle
