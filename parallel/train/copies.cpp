#include "parallel/train/copies.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "data/hash.h"

namespace upcycle {
namespace {

constexpr std::size_t kDigest = 32;  // characters

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// Which ranks of a group have another copy than most of them; where none is held by most, the first rank's counts.
std::string who_differs(const std::vector<std::string>& copies, const std::vector<std::string>& ranks) {
  std::map<std::string, int> held;
  for (const std::string& copy : copies) ++held[copy];
  const auto most = std::max_element(held.begin(), held.end(), [](auto& a, auto& b) { return a.second < b.second; });
  if (2 * most->second <= static_cast<int>(copies.size())) {
    const auto other = std::find_if(copies.begin(), copies.end(), [&](const std::string& c) { return c != copies[0]; });
    return fmt::format("{} and {} have different ones", ranks[0],
                       ranks[static_cast<std::size_t>(other - copies.begin())]);
  }
  std::string wrong;
  for (std::size_t r = 0; r < copies.size(); ++r)
    if (copies[r] != most->first) wrong += (wrong.empty() ? "" : ", ") + ranks[r];
  return fmt::format("{} {} another than the other {}", wrong, wrong.find(", ") == wrong.npos ? "has" : "have",
                     most->second);
}

}  // namespace

DifferentCopy compare_copies(Communicator& group, const std::vector<Copy>& copies, const std::string& here) {
  if (group.size() == 1) return {};
  std::string mine;
  for (const Copy& copy : copies) mine += copy.digest;
  const std::string one = hash_bytes(mine.data(), mine.size()), all = group.gather_text(one);
  bool same = true;
  for (std::size_t at = 0; at < all.size(); at += kDigest) same = same && all.compare(at, kDigest, one) == 0;
  if (same) return {};
  const std::vector<std::string> ranks = lines_of(group.gather_text(here + "\n"));
  const std::string digests = group.gather_text(mine);
  for (std::size_t i = 0; i < copies.size(); ++i) {
    std::vector<std::string> of_ranks;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      of_ranks.push_back(digests.substr((r * copies.size() + i) * kDigest, kDigest));
    if (std::count(of_ranks.begin(), of_ranks.end(), of_ranks[0]) == static_cast<std::ptrdiff_t>(ranks.size()))
      continue;
    return {static_cast<std::int64_t>(i), fmt::format("replicas of {} differ within {}: {}", copies[i].name,
                                                      group.name(), who_differs(of_ranks, ranks))};
  }
  return {};
}

}  // namespace upcycle
