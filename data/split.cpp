#include "data/split.h"

#include <charconv>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

constexpr const char* names[] = {"train", "valid", "test"};

}  // namespace

DataSplit parse_split(const std::string& text, const std::string& where) {
  if (text.empty()) return {};
  std::vector<double> shares;
  bool numbers = true;
  for (std::size_t at = 0; at <= text.size() && numbers;) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    double share = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, share);
    numbers = error == std::errc{} && stop == text.data() + end && std::isfinite(share) && share >= 0;
    shares.push_back(share);
    at = end + 1;
  }
  if (!numbers || shares.size() < 2 || shares.size() > 3 || shares[0] <= 0)
    input_error(
        "{}: data.split: found {}, expected shares of the documents for training, validation and test, such as 98,2 or "
        "969,30,1",
        where, quote_text(text));
  return {shares[0], shares[1], shares.size() == 3 ? shares[2] : 0};
}

void keep_part(TokenSet& set, const DataSplit& split, SplitPart part) {
  if (split.whole() && part == SplitPart::Train) return;
  const double all = split.train + split.valid + split.test, documents = static_cast<double>(set.documents());
  const double bounds[] = {0, split.train / all, (split.train + split.valid) / all, 1};
  const auto bound = [&](std::size_t i) { return static_cast<std::int64_t>(std::nearbyint(bounds[i] * documents)); };
  const auto i = static_cast<std::size_t>(part);
  const std::int64_t begin = bound(i), end = bound(i + 1);
  if (begin == end)
    input_error("data.split: of the {} documents of {} none is for {}; give it a larger share, or no split",
                set.documents(), set.prefix(), names[i]);
  set.keep_documents(begin, end);
}

SplitPart parse_split_part(const std::string& text, const std::string& where) {
  for (std::size_t i = 0; i < 3; ++i)
    if (text == names[i]) return static_cast<SplitPart>(i);
  input_error("{}: found {}, expected train, valid or test", where, quote_text(text));
}

}  // namespace upcycle
