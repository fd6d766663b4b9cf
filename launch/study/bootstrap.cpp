#include "launch/study/bootstrap.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "core/rng.h"

namespace upcycle {
namespace {

constexpr std::size_t kDraws = 2000;
constexpr std::uint64_t kDocuments = rng::key_of("study: documents drawn anew"),
                        kSeeds = rng::key_of("study: spread over seeds");

double mean_of(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

// Unbiased.
double variance_of(const std::vector<double>& x) {
  const double mean = mean_of(x);
  double sum = 0;
  for (const double v : x) sum += (v - mean) * (v - mean);
  return sum / static_cast<double>(x.size() - 1);
}

// Distances from the whole's ratio of sums, of kDraws draws.
std::vector<double> redrawn(const std::vector<double>& sums, const std::vector<double>& tokens, double whole) {
  const std::size_t n = sums.size();
  const double widened = std::sqrt(static_cast<double>(n) / static_cast<double>(n - 1));
  std::vector<double> distances;
  std::array<std::uint32_t, 4> random{};  // of four documents
  for (std::size_t draw = 0; draw < kDraws; ++draw) {
    double sum = 0, of = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i % 4 == 0) random = rng::bits(1, kDocuments, draw * n + i);
      const std::size_t document = static_cast<std::uint64_t>(random[i % 4]) * n >> 32;
      sum += sums[document];
      of += tokens[document];
    }
    distances.push_back(widened * (sum / of - whole));
  }
  return distances;
}

double student_t(std::size_t degrees, std::size_t draw) {
  const std::size_t first = draw * (degrees + 1);
  double squares = 0;
  for (std::size_t i = 1; i <= degrees; ++i) {
    const double z = rng::normal(1, kSeeds, first + i);
    squares += z * z;
  }
  return rng::normal(1, kSeeds, first) / std::sqrt(squares / static_cast<double>(degrees));
}

}  // namespace

const char* const kIntervalRule =
    "Differences are paired: by seed, and by document (cloze: by the items of a document). Standard errors and 95 % "
    "intervals come from "
    "2,000 draws of the documents with replacement, the same ones for both arms and all seeds, together with the "
    "spread "
    "over seeds, which is pooled over the durations and budgets of a size; the interval follows Student's t in it, so "
    "with few seeds it is wider than two standard errors.";

SeedSpread seed_spread(const std::vector<std::vector<double>>& per_seed) {
  SeedSpread spread;
  double sum = 0;
  for (const std::vector<double>& cell : per_seed) {
    if (cell.size() < 2 || std::isnan(mean_of(cell))) continue;
    sum += variance_of(cell) * static_cast<double>(cell.size() - 1);
    spread.degrees += cell.size() - 1;
  }
  if (spread.degrees > 0) spread.variance = sum / static_cast<double>(spread.degrees);
  return spread;
}

std::vector<double> seed_differences(const std::vector<std::vector<double>>& differences,
                                     const std::vector<double>& tokens) {
  const double all = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  std::vector<double> per_seed;
  for (const std::vector<double>& of_seed : differences) {
    UPCYCLE_CHECK(of_seed.size() == tokens.size(), "{} differences of {} documents", of_seed.size(), tokens.size());
    per_seed.push_back(std::accumulate(of_seed.begin(), of_seed.end(), 0.0) / all);
  }
  return per_seed;
}

PairedDifference paired_difference(const std::vector<std::vector<double>>& differences,
                                   const std::vector<double>& tokens, const SeedSpread& spread) {
  PairedDifference result;
  const std::size_t n = tokens.size(), seeds = differences.size();
  if (seeds == 0 || n == 0) return result;
  result.per_seed = seed_differences(differences, tokens);
  result.difference = mean_of(result.per_seed);
  if (n < 2 || std::isnan(result.difference)) return result;
  std::vector<double> mean(n, 0.0);  // over the seeds: the ratio is linear in them
  for (const std::vector<double>& of_seed : differences)
    for (std::size_t d = 0; d < n; ++d) mean[d] += of_seed[d] / static_cast<double>(seeds);
  std::vector<double> distances = redrawn(mean, tokens, result.difference);
  const double of_seeds = spread.variance / static_cast<double>(seeds);
  result.standard_error = std::sqrt(variance_of(distances) + of_seeds);
  if (spread.degrees > 0)
    for (std::size_t i = 0; i < kDraws; ++i) distances[i] += std::sqrt(of_seeds) * student_t(spread.degrees, i);
  std::sort(distances.begin(), distances.end());
  result.low = result.difference + distances[kDraws / 40];
  result.high = result.difference + distances[kDraws - 1 - kDraws / 40];
  return result;
}

std::string says(const PairedDifference& d, bool lower_is_better) {
  if (std::isnan(d.standard_error)) return "not known";
  if (std::abs(d.difference) <= 2 * d.standard_error) return "no difference";
  return (d.difference < 0) == lower_is_better ? "better" : "worse";
}

}  // namespace upcycle
