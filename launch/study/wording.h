#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"

// Numbers and lists in the sentences of a study's report.
namespace upcycle {

// Two digits: "3.1e9", "0.43", "12".
inline std::string two_digits(double x) {
  if (x == 0) return "0";
  if (std::abs(x) >= 0.001 && std::abs(x) < 99.5) return fmt::format("{:.2g}", x);
  std::string text = fmt::format("{:.1e}", x);  // 3.1e+09
  const std::size_t e = text.find('e');
  std::string mantissa = text.substr(0, e);
  if (mantissa.ends_with(".0")) mantissa.resize(mantissa.size() - 2);
  return fmt::format("{}e{}", mantissa, std::stoi(text.substr(e + 1)));
}

// "a", "a and b", "a, b and c".
inline std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i)
    text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
  return text;
}

// "1 run", "2 runs".
inline std::string counted(std::size_t n, const std::string& what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

}  // namespace upcycle
