#include "launch/charts/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace upcycle::charts {
namespace {

struct Prefix {
  double factor;
  const char* letter;
};

const std::vector<Prefix>& prefixes(Unit unit) {
  static const std::vector<Prefix> counts = {{1, ""}, {1e3, " k"}, {1e6, " M"}, {1e9, " B"}, {1e12, " T"}};
  static const std::vector<Prefix> flops = {{1, " "},     {1e3, " k"},  {1e6, " M"},  {1e9, " G"}, {1e12, " T"},
                                            {1e15, " P"}, {1e18, " E"}, {1e21, " Z"}, {1e24, " Y"}};
  static const std::vector<Prefix> seconds = {{1e-6, " µs"}, {1e-3, " ms"}, {1, " s"},
                                              {60, " min"},  {3600, " h"},  {86400, " days"}};
  return unit == Unit::Flops ? flops : unit == Unit::Seconds ? seconds : counts;
}

// The largest that is at most `value`, with room for rounding: 999.9996 is 1.00 k.
const Prefix& prefix_of(double value, Unit unit) {
  const std::vector<Prefix>& all = prefixes(unit);
  const Prefix* chosen = &all.front();
  for (const Prefix& p : all)
    if (std::abs(value) >= p.factor * 0.9995) chosen = &p;
  return *chosen;
}

// Three digits, without zeros at the end of a fraction.
std::string three_digits(double value) {
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-4 || size >= 1e6)) return fmt::format("{:.2e}", value);
  const int before = size == 0 ? 1 : static_cast<int>(std::floor(std::log10(size))) + 1;
  std::string text = fmt::format("{:.{}f}", value, std::clamp(3 - before, 0, 6));
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string duration(double seconds) {
  if (std::abs(seconds) < 60) {
    const Prefix& p = prefix_of(seconds, Unit::Seconds);
    return seconds == 0 ? "0 s" : three_digits(seconds / p.factor) + p.letter;
  }
  const auto whole = static_cast<long long>(std::llround(seconds));
  const auto both = [](long long large, const char* one, long long small, const char* other) {
    return fmt::format("{} {}", large, one) + (small == 0 ? "" : fmt::format(" {} {}", small, other));
  };
  if (whole < 3600) return both(whole / 60, "min", whole % 60, "s");
  if (whole < 48 * 3600) return both(whole / 3600, "h", whole / 60 % 60, "min");
  return three_digits(seconds / 86400) + " days";
}

std::string positive(double value, Unit unit) {
  switch (unit) {
    case Unit::Number:
      return three_digits(value);
    case Unit::Share:
      return three_digits(100 * value) + " %";
    case Unit::Seconds:
      return duration(value);
    default: {
      const Prefix& p = prefix_of(value, unit);
      return three_digits(value / p.factor) + p.letter + (unit == Unit::Flops ? "FLOPs" : "");
    }
  }
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\n':
        out += '\n';
        break;
      default:
        out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  return out;
}

std::string for_people(double value, Unit unit) {
  if (!std::isfinite(value)) return "–";
  return value < 0 ? "−" + positive(-value, unit) : positive(value, unit);
}

std::string with_sign(double value, Unit unit) { return (value > 0 ? "+" : "") + for_people(value, unit); }

std::string decimals(double value, int digits, bool sign) {
  if (!std::isfinite(value)) return "–";
  const std::string text = fmt::format("{:.{}f}", std::abs(value), digits);
  return (value < 0 ? "−" : sign ? "+" : "") + text;
}

std::string exact(double value) { return fmt::format("{}", value); }

std::string tick_label(double value, double step, double largest, Unit unit) {
  if (unit == Unit::Seconds && step >= 1) return for_people(value, unit);
  const bool plain = unit == Unit::Number || unit == Unit::Share;
  const Prefix prefix =
      plain ? Prefix{unit == Unit::Share ? 0.01 : 1, unit == Unit::Share ? " %" : ""} : prefix_of(largest, unit);
  const double shown = value / prefix.factor, by = step / prefix.factor;
  if (std::abs(value) < step * 1e-6) return "0";
  if (plain && (by < 1e-5 || std::abs(shown) >= 1e6)) return fmt::format("{:.3g}", shown);
  // As many digits as the step has: 0.25 needs two although it is above a tenth.
  int digits = 0;
  for (double s = by; digits < 6 && std::abs(s - std::round(s)) > 1e-6 * s; s *= 10) ++digits;
  return (value < 0 ? "−" : "") + fmt::format("{:.{}f}", std::abs(shown), digits) + prefix.letter;
}

}  // namespace upcycle::charts
