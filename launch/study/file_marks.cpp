#include "launch/study/file_marks.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "data/files.h"
#include "data/hash.h"
#include "launch/model_files.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kPart = 64 << 10, kParts = 16;

std::string mark_of(const std::string& path) {
  const FileDescriptor file = open_regular_file(path);
  const std::uint64_t size = file.size();
  Hasher hasher;
  std::vector<char> part(kPart);
  const bool whole = size <= kPart * kParts;
  for (std::uint64_t i = 0; i < kParts; ++i) {
    const std::uint64_t begin = whole ? i * kPart : (size - kPart) / (kParts - 1) * i;
    if (begin >= size) break;
    // The last part ends with the file.
    const std::uint64_t at = !whole && i + 1 == kParts ? size - kPart : begin, bytes = std::min(kPart, size - at);
    file.read_at(at, part.data(), bytes);
    hasher.update(part.data(), bytes);
  }
  return fmt::format("{} bytes, {}", size, hasher.hex().substr(0, 16));
}

}  // namespace

const std::string& FileMarks::of_file(const std::string& path) {
  const auto [known, added] = known_.emplace(path, "");
  if (added && fs::exists(path)) known->second = mark_of(path);
  return known->second;
}

const std::string& FileMarks::of_model(const std::string& given) {
  if (const auto known = known_.find(given); known != known_.end()) return known->second;
  std::string& all = known_[given];
  if (!fs::is_directory(given)) return all;
  std::vector<std::string> lines;
  for (const fs::directory_entry& file : fs::directory_iterator(model_folder(given)))
    if (const std::string name = file.path().filename(); file.is_regular_file() && !name.starts_with('.'))
      lines.push_back(name + " " + of_file(file.path()) + "\n");
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return all = fmt::format("{} files, {}", lines.size(), hash_bytes(text.data(), text.size()).substr(0, 16));
}

}  // namespace upcycle
