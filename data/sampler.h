#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "data/documents.h"
#include "data/permutation.h"
#include "data/split.h"
#include "data/token_set.h"

namespace upcycle {

// Which sequences are trained on, in which order: a pure function of (token sets, weights, S, seed) and a sample's
// global index, independent of ranks; to resume, a run needs only its count of consumed samples. Global batch b of G
// sequences is samples b*G to b*G + G - 1.
//
// A set of n tokens is packed across documents into (n - 1) / S sequences: sequence i is tokens [i*S, i*S + S) with
// targets one further, [i*S + 1, i*S + S + 1). So neighbours share one token (the last target of one, the first input
// of the next), and up to S - 1 tokens at the end of the set are not trained on. Each epoch of a set is a new
// permutation of its sequences, keyed by (seed, index of the set, epoch).
//
// Several sets are blended as in Megatron: sample g comes from the set that is furthest behind its share (largest
// weight * (g + 1) - drawn so far; ties go to the first). Shares are integers (weights in units of 2^-32), so that
// rounding can not make two machines disagree. Not thread-safe.
class Sampler {
 public:
  struct Sample {
    std::int64_t set = 0, sequence = 0;
    std::int64_t epoch = 0;  // of that set
  };

  // InputError: no set, a weight that is not above 0, a set with fewer than S + 1 tokens.
  Sampler(const std::vector<WeightedPath>& sets, std::int64_t vocab_size, std::int64_t seq_length, std::int64_t seed,
          const DocumentRules& rules = {}, const DataSplit& split = {});  // of each set its part for training

  Sample sample(std::int64_t global_index);
  // tokens (S), targets (S); -1: a target that the rules leave out. InputError for an id outside the vocabulary.
  void fill(std::int64_t global_index, std::int32_t* tokens, std::int32_t* targets);

  // For each set, how many epochs have begun in the samples before `global_index`.
  std::vector<std::int64_t> epochs_begun(std::int64_t global_index);

  std::int64_t seq_length() const { return seq_length_; }
  const std::vector<TokenSet>& sets() const { return sets_; }
  std::int64_t sequences(std::int64_t set) const { return sequences_[static_cast<std::size_t>(set)]; }
  double share(std::int64_t set) const;  // of the samples; n samples hold share * n of the set, to within one

 private:
  // How often each set was drawn before sample `index`: all that the choice of later sets depends on.
  struct Blend {
    std::int64_t index = 0;
    std::vector<std::int64_t> drawn, behind;  // behind: weight * index - drawn * total, weights in units of 2^-32
  };
  std::size_t draw();  // the set of sample now_.index, which it moves past
  void seek(std::int64_t global_index);
  const Permutation& permutation(std::size_t set, std::int64_t epoch);

  std::vector<TokenSet> sets_;
  std::vector<std::int64_t> weights_, sequences_;
  std::int64_t total_weight_ = 0, seq_length_ = 0, seed_ = 0;
  DocumentRules rules_;
  Blend now_;
  std::int64_t last_index_ = -1;  // cached, because `sample` is often followed by `fill` of the same index
  Sample last_;
  std::vector<Blend> marks_;  // one every 2^20 samples, so that going back is quick
  struct Epoch {
    std::int64_t number;
    Permutation order;
  };
  std::vector<Epoch> epochs_;  // for each set, the one used last
};

// Walks a set with stride S for evaluation: every token but the first, and those that the rules leave out, is predicted
// exactly once.
class EvalWindows {
 public:
  // `set` must outlive this. InputError for fewer than 2 tokens.
  EvalWindows(const TokenSet& set, std::int64_t seq_length, const DocumentRules& rules = {});

  std::int64_t count() const;        // windows; only the last may be partial
  std::int64_t predictions() const;  // of all windows, what the rules leave out included: tokens - 1
  // tokens (S), targets (S): window w has inputs [w*S, w*S + S) and targets one further. Past the end of the set tokens
  // are 0 and targets -1. Returns the number of targets that are not -1.
  std::int64_t fill(std::int64_t window, std::int32_t* tokens, std::int32_t* targets) const;
  // Targets [first, first + count) of the set's tokens, first > 0, as windows have them.
  void read_targets(std::int64_t first, std::int64_t count, std::int32_t* out) const;
  const DocumentRules& rules() const { return rules_; }

 private:
  const TokenSet& set_;
  std::int64_t seq_length_;
  DocumentRules rules_;
};

}  // namespace upcycle
