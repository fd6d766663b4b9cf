#include "launch/charts/axis.h"

#include <algorithm>
#include <cmath>

namespace upcycle::charts {
namespace {

// A round step of which about `count` fit into `range`.
double round_step(double range, double count, Unit unit) {
  const double least = range / count;
  if (unit == Unit::Seconds && least > 1)
    for (const double s : {2., 5., 10., 20., 30., 60., 120., 300., 600., 1200., 1800., 3600., 7200., 10800., 21600.,
                           43200., 86400., 172800., 432000.})
      if (s >= least) return s;
  const double unit_step = std::pow(10, std::floor(std::log10(least)));
  for (const double s : {1.0, 2.0, 5.0})
    if (s * unit_step >= least * 0.999) return s * unit_step;
  return 10 * unit_step;
}

// Round values of a logarithmic axis, over everything that could be on it.
std::vector<double> candidates(Unit unit, double decades, int every) {
  std::vector<double> all;
  const bool clock = unit == Unit::Seconds;
  for (int e = -12; e <= (clock ? 0 : 30); ++e)
    for (const double m : {1., 2., 5.})
      if ((decades <= 2.4 || (m == 1 && e % every == 0)) && (decades <= 1.8 || m != 2))
        all.push_back(m * std::pow(10, e));
  if (!clock) return all;
  const bool few = decades > 1.8;
  for (const double s : {10., 20., 60., 120., 300., 600., 1200., 3600., 7200., 18000., 36000., 86400., 172800., 432000.,
                         864000., 2592000.})
    if (!few || (s != 20 && s != 120 && s != 1200 && s != 7200 && s != 18000)) all.push_back(s);
  return all;
}

}  // namespace

Scale::Scale(const Axis& axis, const std::vector<double>& values, double from, double to)
    : log_(axis.log), from_(from), to_(to) {
  std::vector<double> all;
  for (const std::vector<double>* some : {&values, &axis.include, &axis.ticks})
    for (const double v : *some)
      if (std::isfinite(v) && (!log_ || v > 0)) all.push_back(v);
  if (!all.empty()) {
    const auto [least, most] = std::ranges::minmax_element(all);
    low_ = *least;
    high_ = *most;
  } else if (log_) {
    low_ = 1;
    high_ = 10;
  }
  log_ ? logarithmic(axis) : linear(axis);
  if (axis.ticks.empty()) return;
  ticks_.clear();
  for (const double t : axis.ticks) ticks_.push_back({t, for_people(t, axis.unit)});
}

void Scale::linear(const Axis& axis) {
  if (low_ == high_) {
    const double room = low_ == 0 ? 1 : std::abs(low_) * 0.1;
    low_ -= room;
    high_ += room;
  }
  const double room = 0.05 * (high_ - low_);
  // An end that was asked for (0 of a count) is the end; else the outermost points keep off the frame.
  const auto asked = [&](double v) { return std::ranges::find(axis.include, v) != axis.include.end(); };
  const bool keep_low = asked(low_), keep_high = asked(high_);
  if (!keep_low) low_ -= room;
  if (!keep_high) high_ += room;
  const double step = round_step(high_ - low_, 6, axis.unit), largest = std::max(std::abs(low_), std::abs(high_));
  for (double n = std::ceil(low_ / step - 1e-9); n * step <= high_ + 1e-9 * step; ++n)
    ticks_.push_back({n * step, tick_label(n * step, step, largest, axis.unit)});
}

void Scale::logarithmic(const Axis& axis) {
  const double room = std::max(1.05, std::pow(high_ / low_, 0.05));
  low_ /= room;
  high_ *= room;
  const double decades = std::log10(high_ / low_);
  if (decades < 0.6) {  // round numbers at equal distances say more than one power of ten
    const double step = round_step(high_ - low_, 4, axis.unit);
    for (double n = std::ceil(low_ / step); n * step <= high_; ++n)
      ticks_.push_back({n * step, tick_label(n * step, step, high_, axis.unit)});
    return;
  }
  const int every = std::max(1, static_cast<int>(std::ceil(decades / 6)));
  for (const double v : candidates(axis.unit, decades, every))
    if (v >= low_ && v <= high_) ticks_.push_back({v, for_people(v, axis.unit)});
}

double Scale::at(double value) const {
  const double share = log_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
  return from_ + share * (to_ - from_);
}

bool Scale::shows(double value) const { return std::isfinite(value) && value >= low_ && value <= high_; }

}  // namespace upcycle::charts
