#include "parallel/comm/stall_report.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/check.h"

namespace upcycle {
namespace {

// What travels: this, then the group's ranks.
struct Header {
  std::int32_t rank, members;
  double seconds, quiet;
  std::uint64_t sequence, bytes;
  char group[24], op[24];
};

void copy_text(char (&to)[24], const std::string& from) {
  std::memset(to, 0, sizeof(to));
  std::memcpy(to, from.data(), std::min(from.size(), sizeof(to) - 1));
}

std::string place(const StallReport& r) { return fmt::format("{} {} #{}", r.group, r.op, r.sequence); }

}  // namespace

std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  const double kib = static_cast<double>(bytes) / 1024;
  return kib < 1024 ? fmt::format("{:.3g} KiB", kib) : fmt::format("{:.3g} MiB", kib / 1024);
}

std::string ranks_text(const std::set<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (auto at = ranks.begin(); at != ranks.end();) {
    const int first = *at;
    int last = first;
    while (++at != ranks.end() && *at == last + 1) ++last;
    if (first != *ranks.begin()) text += ", ";
    text += last == first ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
  }
  return text;
}

std::string hosts_text(const std::set<int>& ranks, std::span<const std::string> hosts) {
  constexpr std::size_t most = 4;
  std::set<std::string> names;
  for (const int r : ranks) names.insert(hosts[static_cast<std::size_t>(r)]);
  if (names.size() > most) return fmt::format("{} hosts, {} among them", names.size(), *names.begin());
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::vector<std::byte> to_bytes(const StallReport& report) {
  Header h{.rank = report.rank,
           .members = static_cast<std::int32_t>(report.group_ranks.size()),
           .seconds = report.seconds,
           .quiet = report.quiet,
           .sequence = report.sequence,
           .bytes = report.bytes,
           .group = {},
           .op = {}};
  copy_text(h.group, report.group);
  copy_text(h.op, report.op);
  std::vector<std::byte> bytes(sizeof(h) + report.group_ranks.size() * sizeof(int));
  std::memcpy(bytes.data(), &h, sizeof(h));
  std::memcpy(bytes.data() + sizeof(h), report.group_ranks.data(), report.group_ranks.size() * sizeof(int));
  return bytes;
}

StallReport report_from_bytes(std::span<const std::byte> bytes) {
  Header h;
  UPCYCLE_CHECK(bytes.size() >= sizeof(h), "a report of {} bytes", bytes.size());
  std::memcpy(&h, bytes.data(), sizeof(h));
  UPCYCLE_CHECK(bytes.size() == sizeof(h) + static_cast<std::size_t>(h.members) * sizeof(int),
                "a report of {} bytes for {} ranks", bytes.size(), h.members);
  StallReport report{h.rank, h.seconds, h.group, h.op, h.sequence, h.bytes, {}, h.quiet};
  report.group_ranks.resize(static_cast<std::size_t>(h.members));
  std::memcpy(report.group_ranks.data(), bytes.data() + sizeof(h), bytes.size() - sizeof(h));
  return report;
}

std::set<int> missing_ranks(std::span<const StallReport> reports) {
  std::set<int> missing;
  for (const StallReport& r : reports) missing.insert(r.group_ranks.begin(), r.group_ranks.end());
  for (const StallReport& r : reports) missing.erase(r.rank);
  return missing;
}

std::string stall_summary(std::span<const StallReport> reports, std::span<const std::string> hosts,
                          const std::set<int>& working) {
  const auto longest = std::max_element(
      reports.begin(), reports.end(), [](const StallReport& a, const StallReport& b) { return a.seconds < b.seconds; });
  std::set<int> missing = missing_ranks(reports), busy;
  for (const int r : working)
    if (missing.erase(r) != 0) busy.insert(r);

  std::string text = fmt::format("rank {} on {} waited {:.0f} s in {} ({}): ", longest->rank,
                                 hosts[static_cast<std::size_t>(longest->rank)], longest->seconds, place(*longest),
                                 bytes_text(longest->bytes));
  std::map<std::string, std::set<int>> waiting;
  for (const StallReport& r : reports) waiting[place(r)].insert(r.rank);
  if (!missing.empty()) {
    text += fmt::format("{} on {} did not arrive", ranks_text(missing), hosts_text(missing, hosts));
  } else if (const std::set<int>& together = waiting[place(*longest)];
             std::all_of(longest->group_ranks.begin(), longest->group_ranks.end(),
                         [&](int r) { return together.contains(r); })) {
    text += "all its ranks arrived, but it does not come to an end; is the network up?";
  } else {
    text += "no rank is missing, but their calls differ";
  }
  if (!busy.empty()) text += fmt::format("; {} still at work on files", ranks_text(busy));
  constexpr int most = 16;
  int listed = 0;
  for (const auto& [where, ranks] : waiting) {
    if (++listed > most) continue;
    text += fmt::format("; {} waiting in {}", ranks_text(ranks), where);
  }
  if (listed > most) text += fmt::format("; and {} more", listed - most);
  return text;
}

}  // namespace upcycle
