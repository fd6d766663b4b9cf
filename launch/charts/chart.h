#pragma once
#include <limits>
#include <string>
#include <vector>

#include "launch/charts/axis.h"
#include "launch/charts/marker.h"

namespace upcycle::charts {

inline constexpr double none = std::numeric_limits<double>::quiet_NaN();

struct Point {
  double x = 0, y = 0;  // as they stand in the data: written out exactly, as data-x and data-y
  std::string of;       // whose point: data-run
  std::string tip;      // shown when it is pointed at, touched or reached by the arrow keys; lines end with \n
  double low = none, high = none;  // of a bar through the point
  bool hollow = false;
  bool ringed = false;     // marked, e.g. as the best
  std::string label = {};  // beside the point
};

struct Series {
  std::string name;  // in the legend; series of the same name share their entry; "": not in the legend
  Look look;
  std::vector<Point> points;
  bool line = true, markers = true;
  std::vector<Point> through = {};  // the line leads through these instead of the points, e.g. means
  bool thin = false;                // in the background
  bool aside = false;               // the y axis is made for the others: points above its end lie on it as arrows
  double shift = 0;                 // pixels to the right, so that bars at the same x lie beside each other
};

struct Chart {
  std::string key;    // data-chart: which of the page's plots this is
  std::string title;  // plain text
  Axis x, y;
  std::vector<Series> series;
  std::vector<double> levels = {};  // horizontal lines, e.g. no gain
  bool crop = false;                // leave the highest fiftieth of the values out of the range: the start of training
};

// One <figure>: title, SVG of 400 x 280 units that fits its column, hover texts.
std::string chart_figure(const Chart& chart);
// Charts beside each other, one above the other on a phone, under the legend of all their series. "" where no chart has
// points.
std::string chart_group(const std::vector<Chart>& charts, const std::string& caption = "");
// Anything else that a picture has beside its charts: 400 units wide, drawn below its title.
struct Panel {
  std::string title;  // plain text
  double height = 0;
  std::string svg;
};
// Charts and then panels, beside each other as one SVG file that needs no page, e.g. for a README.
std::string charts_svg(const std::vector<Chart>& charts, const std::vector<Panel>& panels = {});
bool has_points(const Chart& chart);

}  // namespace upcycle::charts
