#include "launch/cloze_items.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "data/permutation.h"
#include "launch/document_cuts.h"

namespace upcycle {
namespace {

constexpr std::int64_t kTries = 1024;  // draws of false continuations for one item

// The pieces of a set, numbered through all documents.
class Pieces {
 public:
  Pieces(const TokenSet& set, const ClozeRule& rule) : starts_(set.document_starts()), rule_(rule) {
    first_.push_back(0);
    for (std::size_t d = 0; d + 1 < starts_.size(); ++d) {
      const std::int64_t room = starts_[d + 1] - starts_[d] - rule.context;
      first_.push_back(first_.back() + std::max<std::int64_t>(0, room) / rule.length);
    }
  }
  std::int64_t count() const { return first_.back(); }
  // The first piece of the document of this one, and the first after it.
  std::pair<std::int64_t, std::int64_t> of_same_document(std::int64_t piece) const {
    const std::size_t d = document(piece);
    return {first_[d], first_[d + 1]};
  }
  std::int64_t begin(std::int64_t piece) const {  // its first token
    const std::size_t d = document(piece);
    return starts_[d] + rule_.context + (piece - first_[d]) * rule_.length;
  }

 private:
  std::size_t document(std::int64_t piece) const {
    return static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), piece) - first_.begin()) - 1;
  }
  std::vector<std::int64_t> starts_, first_;  // of each document: its first token, and its first piece
  ClozeRule rule_;
};

std::vector<std::int32_t> read(const TokenSet& set, std::int64_t first, std::int64_t n) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  set.read(first, n, ids.data());
  return ids;
}

ClozeItem make_item(const TokenSet& set, const Pieces& pieces, const ClozeRule& rule, std::int64_t number,
                    std::int64_t piece) {
  static constexpr std::uint64_t key = rng::key_of("cloze candidates");
  const std::int64_t place = pieces.begin(piece);
  ClozeItem item{place - rule.context, {place}};
  std::vector<std::vector<std::int32_t>> texts{read(set, place, rule.length)};
  auto [left_out, end] = pieces.of_same_document(piece);
  if (end - left_out == pieces.count()) left_out = piece, end = piece + 1;
  const std::int64_t others = pieces.count() - (end - left_out);
  for (std::int64_t i = 0; i < kTries && others > 0 && std::ssize(item.candidates) < rule.candidates; ++i) {
    auto drawn =
        static_cast<std::int64_t>(rng::below(static_cast<std::uint64_t>(others), static_cast<std::uint64_t>(rule.seed),
                                             key, static_cast<std::uint64_t>(number * kTries + i)));
    if (drawn >= left_out) drawn += end - left_out;
    const std::int64_t begin = pieces.begin(drawn);
    std::vector<std::int32_t> text = read(set, begin, rule.length);
    if (std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
    texts.push_back(std::move(text));
    item.candidates.push_back(begin);
  }
  if (std::ssize(item.candidates) < rule.candidates)
    input_error(
        "{}.bin: found {} different continuations of {} tokens for an item, expected --candidates = {}: other "
        "documents are too few, too short or alike; add text or ask for fewer",
        set.prefix(), item.candidates.size(), rule.length, rule.candidates);
  return item;
}

}  // namespace

std::vector<ClozeItem> draw_cloze(const TokenSet& set, const ClozeRule& rule) {
  const Pieces pieces(set, rule);
  if (pieces.count() < rule.items)
    input_error(
        "{}.bin: found room for {} items (of {} tokens with {} before them in the same document), expected --items = "
        "{}; add text, or ask for fewer or shorter ones",
        set.prefix(), pieces.count(), rule.length, rule.context, rule.items);
  const Permutation order(static_cast<std::uint64_t>(pieces.count()), static_cast<std::uint64_t>(rule.seed),
                          rng::key_of("cloze items"));
  std::vector<ClozeItem> items;
  for (std::int64_t i = 0; i < rule.items; ++i)
    items.push_back(make_item(set, pieces, rule, i, static_cast<std::int64_t>(order(static_cast<std::uint64_t>(i)))));
  return items;
}

std::vector<std::int64_t> documents_of(const std::vector<ClozeItem>& items, const TokenSet& set, std::int64_t longest) {
  const std::vector<std::int64_t> cuts = cut_long(set.document_starts(), longest);
  std::vector<std::int64_t> documents;
  for (const ClozeItem& item : items)
    documents.push_back(std::upper_bound(cuts.begin(), cuts.end(), item.context) - cuts.begin() - 1);
  return documents;
}

double cloze_credit(std::span<const double> log_likelihoods) {
  const double highest = *std::max_element(log_likelihoods.begin(), log_likelihoods.end());
  if (log_likelihoods[0] < highest) return 0;
  return 1.0 / static_cast<double>(std::count(log_likelihoods.begin(), log_likelihoods.end(), highest));
}

ClozeScore cloze_score(std::span<const double> credits, std::int64_t candidates) {
  const auto n = static_cast<double>(credits.size());
  const double chance = 1.0 / static_cast<double>(candidates);
  ClozeScore s;
  s.accuracy = std::accumulate(credits.begin(), credits.end(), 0.0) / n;
  s.corrected = (s.accuracy - chance) / (1 - chance);
  double squares = 0;
  for (const double c : credits) squares += (c - s.accuracy) * (c - s.accuracy);
  s.standard_error = std::sqrt(squares / n / n) / (1 - chance);
  return s;
}

}  // namespace upcycle
