#pragma once
#include <string>

// Text of pages and charts.
namespace upcycle::charts {

// For HTML's text and for attributes in double quotes; control characters become spaces, but line ends stay.
std::string escaped(const std::string& text);

enum class Unit {
  Number,
  Share,    // shown in percent
  Count,    // 1.2 M, 3.4 B
  Flops,    // 340 TFLOPs
  Seconds,  // 12 ms, 3 min 20 s, 2.5 days
};
// About three digits: 0.00123, 12.4 %, 1.2 M, 340 TFLOPs. Not a number: an en dash.
std::string for_people(double value, Unit unit);
std::string with_sign(double value, Unit unit);  // the same with + or a minus sign in front
std::string exact(double value);                 // shortest text that reads back as the same number

// With so many digits after the point, for columns of a table; `sign`: a plus too. Not a number: an en dash.
std::string decimals(double value, int digits, bool sign = false);

// Labels of ticks at multiples of `step` on an axis that reaches to `largest`: all in the same unit and digits.
std::string tick_label(double value, double step, double largest, Unit unit);

}  // namespace upcycle::charts
