#include "data/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/error.h"
#include "core/rng.h"

namespace upcycle {
namespace {
constexpr std::int64_t mark_every = std::int64_t{1} << 20;

std::uint64_t epoch_key(std::size_t set, std::int64_t epoch) {
  return rng::key_of(fmt::format("shuffle set {} epoch {}", set, epoch));
}
}  // namespace

Sampler::Sampler(const std::vector<WeightedPath>& sets, std::int64_t vocab_size, std::int64_t seq_length,
                 std::int64_t seed, const DocumentRules& rules, const DataSplit& split)
    : seq_length_(seq_length), seed_(seed), rules_(rules) {
  UPCYCLE_CHECK(seq_length > 0, "sequences of {} tokens", seq_length);
  if (sets.empty()) input_error("data.train: names no token set; give a PREFIX or a list of {{path, weight}}");
  double sum = 0;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    if (!(sets[i].weight > 0) || !std::isfinite(sets[i].weight))
      input_error("data.train[{}].weight: is {}, expected a number above 0; leave the set out instead", i,
                  sets[i].weight);
    sum += sets[i].weight;
  }
  for (const WeightedPath& part : sets) {
    TokenSet& set = sets_.emplace_back(TokenSet::open(part.path, vocab_size));
    keep_part(set, split, SplitPart::Train);
    if (set.tokens() < seq_length + 1)
      input_error(
          "{}.bin: has {} tokens, a sequence needs train.seq_length + 1 = {}; add text or shorten the sequences",
          part.path, set.tokens(), seq_length + 1);
    sequences_.push_back((set.tokens() - 1) / seq_length);
    // At least 1, so that a tiny share is drawn eventually.
    weights_.push_back(std::max<std::int64_t>(1, std::llround(part.weight / sum * 0x1p32)));
    total_weight_ += weights_.back();
    epochs_.push_back({0, Permutation(static_cast<std::uint64_t>(sequences_.back()), static_cast<std::uint64_t>(seed),
                                      epoch_key(epochs_.size(), 0))});
  }
  now_.drawn.assign(sets.size(), 0);
  now_.behind.assign(sets.size(), 0);
  marks_.push_back(now_);
}

std::size_t Sampler::draw() {
  for (std::size_t s = 0; s < weights_.size(); ++s) now_.behind[s] += weights_[s];
  const auto chosen =
      static_cast<std::size_t>(std::max_element(now_.behind.begin(), now_.behind.end()) - now_.behind.begin());
  now_.behind[chosen] -= total_weight_;
  ++now_.drawn[chosen];
  ++now_.index;
  if (now_.index == static_cast<std::int64_t>(marks_.size()) * mark_every) marks_.push_back(now_);
  return chosen;
}

void Sampler::seek(std::int64_t global_index) {
  if (weights_.size() == 1) {  // nothing to replay
    now_.index = now_.drawn[0] = global_index;
    return;
  }
  const auto mark = std::min(static_cast<std::size_t>(global_index / mark_every), marks_.size() - 1);
  if (global_index < now_.index || marks_[mark].index > now_.index) now_ = marks_[mark];
  while (now_.index < global_index) draw();
}

const Permutation& Sampler::permutation(std::size_t set, std::int64_t epoch) {
  Epoch& cached = epochs_[set];
  if (cached.number != epoch)
    cached = {epoch, Permutation(static_cast<std::uint64_t>(sequences_[set]), static_cast<std::uint64_t>(seed_),
                                 epoch_key(set, epoch))};
  return cached.order;
}

Sampler::Sample Sampler::sample(std::int64_t global_index) {
  UPCYCLE_CHECK(global_index >= 0, "sample {}", global_index);
  if (global_index == last_index_) return last_;
  seek(global_index);
  const std::size_t set = draw();
  const std::int64_t nth = now_.drawn[set] - 1, epoch = nth / sequences_[set];
  const auto place = static_cast<std::uint64_t>(nth % sequences_[set]);
  last_ = {static_cast<std::int64_t>(set), static_cast<std::int64_t>(permutation(set, epoch)(place)), epoch};
  last_index_ = global_index;
  return last_;
}

double Sampler::share(std::int64_t set) const {
  return static_cast<double>(weights_[static_cast<std::size_t>(set)]) / static_cast<double>(total_weight_);
}

std::vector<std::int64_t> Sampler::epochs_begun(std::int64_t global_index) {
  seek(global_index);
  std::vector<std::int64_t> begun;
  for (std::size_t s = 0; s < sequences_.size(); ++s)
    begun.push_back((now_.drawn[s] + sequences_[s] - 1) / sequences_[s]);
  return begun;
}

void Sampler::fill(std::int64_t global_index, std::int32_t* tokens, std::int32_t* targets) {
  const Sample chosen = sample(global_index);
  const TokenSet& set = sets_[static_cast<std::size_t>(chosen.set)];
  const std::int64_t first = chosen.sequence * seq_length_;
  set.read(first, seq_length_, tokens);
  read_targets(set, rules_, first + 1, seq_length_, targets);
}

EvalWindows::EvalWindows(const TokenSet& set, std::int64_t seq_length, const DocumentRules& rules)
    : set_(set), seq_length_(seq_length), rules_(rules) {
  UPCYCLE_CHECK(seq_length > 0, "windows of {} tokens", seq_length);
  if (set.tokens() < 2)
    input_error("{}.bin: has {} tokens, an evaluation needs at least 2; add text", set.prefix(), set.tokens());
}

std::int64_t EvalWindows::count() const { return (predictions() + seq_length_ - 1) / seq_length_; }
std::int64_t EvalWindows::predictions() const { return set_.tokens() - 1; }

void EvalWindows::read_targets(std::int64_t first, std::int64_t count, std::int32_t* out) const {
  upcycle::read_targets(set_, rules_, first, count, out);
}

std::int64_t EvalWindows::fill(std::int64_t window, std::int32_t* tokens, std::int32_t* targets) const {
  UPCYCLE_CHECK(window >= 0 && window < count(), "window {} of {}", window, count());
  const std::int64_t first = window * seq_length_, n = std::min(seq_length_, predictions() - first);
  set_.read(first, n, tokens);
  read_targets(first + 1, n, targets);
  std::fill(tokens + n, tokens + seq_length_, 0);
  std::fill(targets + n, targets + seq_length_, -1);
  return std::count_if(targets, targets + n, [](std::int32_t target) { return target >= 0; });
}

}  // namespace upcycle
