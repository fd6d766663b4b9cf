#include "parallel/comm/check_same.h"

#include <fmt/core.h>

#include <sstream>
#include <vector>

#include "parallel/comm/agree.h"

namespace upcycle {
namespace {

struct Difference {
  std::string mine, theirs;  // whole lines; "" where the text has ended
};

Difference first_difference(const std::string& mine, const std::string& theirs) {
  std::istringstream a(mine), b(theirs);
  Difference d;
  while (true) {
    const bool more_a = !!std::getline(a, d.mine), more_b = !!std::getline(b, d.theirs);
    if (!more_a) d.mine.clear();
    if (!more_b) d.theirs.clear();
    if (d.mine != d.theirs || !(more_a || more_b)) return d;
  }
}

// "rank 3", "ranks 1 to 7", "ranks 1, 3 and 5": long lists are cut.
std::string shown(const std::vector<int>& ranks) {
  if (ranks.size() == 1) return fmt::format("rank {}", ranks[0]);
  if (ranks.size() > 2 && ranks.back() - ranks.front() + 1 == static_cast<int>(ranks.size()))
    return fmt::format("ranks {} to {}", ranks.front(), ranks.back());
  constexpr std::size_t most = 8;
  std::string text = fmt::format("ranks {}", ranks[0]);
  for (std::size_t i = 1; i < ranks.size() && i < most; ++i)
    text += fmt::format("{}{}", i + 1 == ranks.size() ? " and " : ", ", ranks[i]);
  return ranks.size() > most ? text + fmt::format(" and {} more", ranks.size() - most) : text;
}

// "found VALUE" of "KEY: VALUE"
std::string value_of(const std::string& line) {
  const std::size_t colon = line.find(": ");
  return line.empty() ? "nothing" : colon == line.npos ? line : line.substr(colon + 2);
}

}  // namespace

void check_same(Communicator& world, const std::string& text, const std::string& advice) {
  const std::string first = world.broadcast_text(text, 0);
  const bool differs = text != first;
  std::vector<int> ranks;
  std::istringstream in(world.gather_text(differs ? fmt::format("{} ", world.rank()) : ""));
  for (int rank = 0; in >> rank;) ranks.push_back(rank);
  if (ranks.empty()) return;
  std::string message;
  if (differs) {
    const Difference d = first_difference(text, first);
    const std::string& line = d.mine.empty() ? d.theirs : d.mine;
    message = fmt::format("{}: found {} on {}, expected {} as on rank 0; {}", line.substr(0, line.find(": ")),
                          value_of(d.mine), shown(ranks), value_of(d.theirs), advice);
  }
  throw AgreedError(world.broadcast_text(message, ranks[0]));
}

}  // namespace upcycle
