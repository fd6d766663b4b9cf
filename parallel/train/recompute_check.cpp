#include "parallel/train/recompute_check.h"

#include <fmt/core.h>

#include <algorithm>

#include "parallel/train/findings.h"
#include "parallel/train/look_again.h"
#include "parallel/train/microbatch.h"
#include "parallel/train/wrong_number.h"

namespace upcycle {
namespace {

struct Computed {
  std::string name, digest;
};

std::vector<Computed> compute(Trainer& t, std::int64_t j, double valid) {
  Staging staging(*t.device, *t.stream);
  std::vector<Computed> all;
  look_at_microbatch(t, j, valid, [&](const Seen& seen) {
    all.push_back({seen.name, digest_of(staging, seen.values)});
  });
  return all;
}

}  // namespace

void check_recompute(Trainer& t) {
  const double valid = valid_tokens(t);
  // Another of the rank's microbatches each time.
  const std::int64_t every = t.config.train.recompute_check_every,
                     j = every > 0 ? t.step / every % microbatches_here(t) : 0;
  const std::vector<Computed> once = compute(t, j, valid), twice = compute(t, j, valid);
  const auto differs = std::mismatch(once.begin(), once.end(), twice.begin(), twice.end(),
                                     [](const Computed& a, const Computed& b) { return a.digest == b.digest; });
  const std::int64_t place = differs.first == once.end() ? -1 : differs.first - once.begin();
  if (t.mesh->world->max_of(static_cast<double>(place)) < 0) return;
  const std::vector<Computed> again = compute(t, j, valid);
  std::string text;
  if (place >= 0) {
    const std::string& third = again[static_cast<std::size_t>(place)].digest;
    const bool passing = third == differs.first->digest || third == differs.second->digest;
    text = fmt::format("{}, computed twice, came out different on {} (microbatch {}); a third time it is {}",
                       differs.first->name, rank_and_host(*t.mesh), t.mesh->at.dp * microbatches_here(t) + j,
                       passing ? "as one of the two: a passing fault" : "different again: a lasting fault");
  }
  throw WrongNumber(earliest(*t.mesh->world, place, text));
}

}  // namespace upcycle
