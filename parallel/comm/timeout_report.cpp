#include "parallel/comm/timeout_report.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <set>

#include "core/check.h"
#include "parallel/comm/stall_report.h"

namespace upcycle {
namespace {

struct Header {
  std::int32_t rank;
  std::uint32_t line, text;
};

void append(std::vector<std::byte>& to, const void* data, std::size_t bytes) {
  const auto* const from = static_cast<const std::byte*>(data);
  to.insert(to.end(), from, from + bytes);
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  char text[32] = "";
  if (gmtime_r(&now, &utc) != nullptr) (void)std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

}  // namespace

std::vector<std::byte> to_bytes(std::span<const RankSection> sections) {
  std::vector<std::byte> bytes;
  for (const RankSection& s : sections) {
    const Header h{s.rank, static_cast<std::uint32_t>(s.line.size()), static_cast<std::uint32_t>(s.text.size())};
    append(bytes, &h, sizeof(h));
    append(bytes, s.line.data(), s.line.size());
    append(bytes, s.text.data(), s.text.size());
  }
  return bytes;
}

std::vector<RankSection> sections_from_bytes(std::span<const std::byte> bytes) {
  std::vector<RankSection> sections;
  while (!bytes.empty()) {
    Header h;
    UPCYCLE_CHECK(bytes.size() >= sizeof(h), "a section of {} bytes", bytes.size());
    std::memcpy(&h, bytes.data(), sizeof(h));
    bytes = bytes.subspan(sizeof(h));
    UPCYCLE_CHECK(bytes.size() >= std::size_t{h.line} + h.text, "a section's {} bytes, expected {} and {}",
                  bytes.size(), h.line, h.text);
    const auto* const text = reinterpret_cast<const char*>(bytes.data());
    sections.push_back({h.rank, {text, h.line}, {text + h.line, h.text}, {}});
    bytes = bytes.subspan(std::size_t{h.line} + h.text);
  }
  return sections;
}

std::string timeout_report(const std::string& line, std::vector<RankSection> sections,
                           std::span<const std::string> hosts) {
  std::sort(sections.begin(), sections.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  std::set<int> unseen;
  for (int r = 0; r < static_cast<int>(hosts.size()); ++r) unseen.insert(r);
  for (const RankSection& s : sections) unseen.erase(s.rank);
  std::string text = fmt::format("{}\n{}\n\n", now_text(), line);
  for (const RankSection& s : sections)
    text += fmt::format("rank {} on {}: {}\n", s.rank, hosts[static_cast<std::size_t>(s.rank)], s.line);
  if (!unseen.empty())
    text += fmt::format("{} on {}: no rank there answers, nothing is known of what they do\n", ranks_text(unseen),
                        hosts_text(unseen, hosts));
  for (const RankSection& s : sections)
    text += fmt::format("\n== rank {} on {} ==\n{}", s.rank, hosts[static_cast<std::size_t>(s.rank)], s.text);
  return text;
}

std::string write_report(const std::string& folder, int rank, std::time_t since, const std::string& text) {
  const std::string part = fmt::format("{}/timeout_report.{}.part", folder, rank);
  unlink(part.c_str());  // where a run folder from elsewhere holds a link under this name, its file would be emptied
  std::FILE* const file = std::fopen(part.c_str(), "w");
  if (file == nullptr) return "";
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  written = std::fclose(file) == 0 && written;
  std::string path = folder + "/timeout_report.txt";
  struct stat older {};
  if (stat(path.c_str(), &older) == 0 && older.st_mtime < since) unlink(path.c_str());
  // A link, not a rename: it never replaces what another rank has just written.
  if (written && link(part.c_str(), path.c_str()) != 0) {
    path = fmt::format("{}/timeout_report_rank{}.txt", folder, rank);
    written = rename(part.c_str(), path.c_str()) == 0;
  }
  unlink(part.c_str());
  return written ? path : "";
}

}  // namespace upcycle
