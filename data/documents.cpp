#include "data/documents.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "data/token_set.h"

namespace upcycle {

DocumentRules document_rules(const DataConfig& c) {
  return {c.reset_attention_mask, c.reset_position_ids, c.eod_mask_loss, static_cast<std::int32_t>(c.eod_token_id)};
}

void read_targets(const TokenSet& set, const DocumentRules& rules, std::int64_t first, std::int64_t count,
                  std::int32_t* out) {
  set.read(first, count, out);
  if (rules.eod_mask_loss && count > 0) {
    std::int32_t before = 0;
    set.read(first - 1, 1, &before);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t token = out[i];
      if (before == rules.eod) out[i] = -1;
      before = token;
    }
  }
  set.mask_targets(first, count, out);
}

namespace {

// Conversations have an end of document after each answer: then each turn would be kept apart. Of many tokens the first
// million are read.
void warn_of_ends_inside(const TokenSet& set, const DocumentRules& rules, const std::vector<std::int64_t>& starts) {
  constexpr std::int64_t most = 1 << 20;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min(most, set.tokens())));
  set.read(0, std::ssize(ids), ids.data());
  for (std::size_t d = 0; d + 1 < starts.size() && starts[d] < std::ssize(ids); ++d) {
    const auto begin = ids.begin() + starts[d];
    const auto last = ids.begin() + std::min<std::int64_t>(std::ssize(ids), std::max(starts[d], starts[d + 1] - 1));
    if (std::find(begin, last, rules.eod) == last) continue;
    return log_warn("{}: token {}, which ends documents, also occurs inside document {}: its parts are kept apart",
                    set.prefix(), rules.eod, d);
  }
}

}  // namespace

void check_document_ends(const TokenSet& set, const DocumentRules& rules) {
  if (!rules.any()) return;
  constexpr std::int64_t most = 1000;
  const std::vector<std::int64_t> starts = set.document_starts();
  const std::int64_t checked = std::min(most, set.documents());
  for (std::int64_t i = 0; i < checked; ++i) {
    const std::int64_t d = i * set.documents() / checked, end = starts[static_cast<std::size_t>(d) + 1];
    if (end == starts[static_cast<std::size_t>(d)]) continue;
    std::int32_t last = 0;
    set.read(end - 1, 1, &last);
    if (last != rules.eod)
      input_error(
          "{}: document {} ends with token {}, expected {}, which ends each document; name the token that does with "
          "data.eod_token_id, or make the set with one",
          set.prefix(), d, last, rules.eod);
  }
  warn_of_ends_inside(set, rules, starts);
}

}  // namespace upcycle
