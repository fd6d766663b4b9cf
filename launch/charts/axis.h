#pragma once
#include <string>
#include <vector>

#include "launch/charts/text.h"

namespace upcycle::charts {

struct Axis {
  std::string title;  // with its unit where the ticks do not carry it
  Unit unit = Unit::Number;
  bool log = false;
  std::vector<double> ticks = {};    // these instead of round numbers
  std::vector<double> include = {};  // the range holds them, e.g. 0
};

struct Tick {
  double value;
  std::string label;
};

// Where the values of an axis lie: `from` and `to` are pixels.
class Scale {
 public:
  // Values that a logarithm does not have are left out of the range.
  Scale(const Axis& axis, const std::vector<double>& values, double from, double to);
  double at(double value) const;
  bool shows(double value) const;
  const std::vector<Tick>& ticks() const { return ticks_; }

 private:
  void linear(const Axis& axis);
  void logarithmic(const Axis& axis);
  bool log_;
  double low_ = 0, high_ = 1, from_, to_;
  std::vector<Tick> ticks_;
};

}  // namespace upcycle::charts
