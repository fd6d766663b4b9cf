#pragma once
#include <string>

namespace upcycle::charts {

// How a line and its points look. Colors are the classes c0 to c7 of page_style.cpp, which dark mode and print change;
// shape and dash tell apart what color alone must not.
struct Look {
  int color = 0, shape = 0, dash = 0;
  bool hollow = false;
  double opacity = 1;
};
inline constexpr int color_count = 8, shape_count = 8, dash_count = 6;
inline constexpr int quiet_color = 7;  // gray: what others are compared with

std::string marker_path(int shape, double x, double y, double radius);  // the d of a <path>
std::string color_class(const Look& look);                              // "c3"
std::string dash_attribute(const Look& look);                           // "" for a solid line

}  // namespace upcycle::charts
