#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/token_set.h"

namespace upcycle {

// A cloze made of a token set: which of k continuations is the true one?
//
// Each document of the set is cut, behind its first C tokens, into pieces of n tokens (what is left over at its end is
// not used). An item is one of these pieces, the true continuation, and the C tokens before it. N pieces are drawn
// without replacement; of each item the k - 1 false continuations are drawn from the pieces of the other documents, or,
// where no other document has any, from the other pieces of this one; they differ from the true one and from each
// other. All draws are counter-based on (seed, number of the item) and the lengths of the documents, so that every
// model gets the same items.
struct ClozeRule {
  std::int64_t items = 1000, candidates = 4;  // N, k
  std::int64_t context = 64, length = 16;     // C, n: tokens
  std::int64_t seed = 1;
};

struct ClozeItem {
  std::int64_t context = 0;              // where its C tokens begin in the set
  std::vector<std::int64_t> candidates;  // where the k continuations begin; the first is the true one
};

// InputError: the set has fewer than N pieces, or so few that differ that k candidates are not found for an item.
std::vector<ClozeItem> draw_cloze(const TokenSet& set, const ClozeRule& rule);

// The document of each item, which holds its first token; `longest`: as cut_long has it (document_cuts.h).
std::vector<std::int64_t> documents_of(const std::vector<ClozeItem>& items, const TokenSet& set, std::int64_t longest);

// What an item counts whose candidates have these log-likelihoods: 1 if the first, the true one, has the highest, 1/m
// if it is one of m that have it, which is what guessing among them gives; else 0.
double cloze_credit(std::span<const double> log_likelihoods);

// The mean of the items' credits and, with chance taken off, (accuracy - 1/k) / (1 - 1/k): 0 for guessing, 1 for always
// right; standard_error is that of `corrected`, from the spread of the items.
struct ClozeScore {
  double accuracy = 0, corrected = 0, standard_error = 0;
};
ClozeScore cloze_score(std::span<const double> credits, std::int64_t candidates);

}  // namespace upcycle
