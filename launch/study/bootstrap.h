#pragma once
#include <limits>
#include <string>
#include <vector>

namespace upcycle {

// How two arms differ, paired: by the same documents (or cloze items of them), and seed by seed.
struct PairedDifference {
  double difference = std::numeric_limits<double>::quiet_NaN();      // mean over the seeds
  double standard_error = std::numeric_limits<double>::quiet_NaN();  // NaN, as low and high: fewer than 2 documents
  double low = std::numeric_limits<double>::quiet_NaN(), high = std::numeric_limits<double>::quiet_NaN();  // 95 %
  std::vector<double> per_seed;
};

// How far the difference of one seed lies from that of all: its variance, and the degrees of freedom it is known with;
// 0: not known.
struct SeedSpread {
  double variance = 0;
  std::size_t degrees = 0;
};
// Pooled over cells of the grid: `per_seed[cell][seed]` are differences. A cell of two seeds alone hardly knows it.
SeedSpread seed_spread(const std::vector<std::vector<double>>& per_seed);

// `differences[seed][document]`: sum over the document's tokens of arm - baseline; `tokens[document]`. A seed's
// difference is the ratio of their sums. The rule:
//   documents  drawn anew with replacement, 2,000 times, the same ones for all seeds; the difference of a draw is the
//              ratio of its sums, and with n documents its distance from the whole's is widened by sqrt(n / (n - 1)).
//   seeds      drawing two or three of them anew would make their spread too small (with 2 its variance is halved), so
//              a mean over S seeds is off by sqrt(spread.variance / S) times a draw of Student's t with its degrees of
//              freedom. Where these are 0 the spread is not known, and not in the result.
//   together   the standard error is the root of the sum of both variances; the interval leaves out 2.5 % of the sums
//   of
//              both draws on either side.
// A pure function: the draws are counter-based.
PairedDifference paired_difference(const std::vector<std::vector<double>>& differences,
                                   const std::vector<double>& tokens, const SeedSpread& spread);
std::vector<double> seed_differences(const std::vector<std::vector<double>>& differences,
                                     const std::vector<double>& tokens);  // per_seed alone

// "no difference" up to two standard errors, else "better" or "worse"; "not known" without a standard error.
std::string says(const PairedDifference& d, bool lower_is_better);

// What documents and seeds stand for in the report, as it prints it.
extern const char* const kIntervalRule;

}  // namespace upcycle
