#pragma once
#include <string>
#include <vector>

#include "launch/charts/chart.h"

namespace upcycle::charts {

// Shares in rows and columns. A cell with the share that all would have if they were alike has no color; those above
// and below take two, the stronger the nearer to `most` or to nothing. Each has its value as hover text, and in it
// where there is room.
struct HeatMap {
  std::string key, title;
  std::string row_title, column_title;
  std::vector<std::string> rows, columns;   // labels; those that would touch are left out
  std::vector<std::vector<double>> values;  // of each row
  std::string of;                           // data-run
  double even = 0;
  double most = 0;
  bool scale = true;  // explain the colors below
};
std::string heat_map_figure(const HeatMap& map);  // "" where it has no values
Panel heat_map_panel(const HeatMap& map);

}  // namespace upcycle::charts
