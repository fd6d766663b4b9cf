#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/token_set_writer.h"

namespace upcycle {

inline void add_document(TokenSetWriter& writer, std::span<const std::int32_t> ids) {
  writer.append(ids);
  writer.end_document();
}

// Where each document begins, in tokens, and where the last one ends: as PREFIX.idx tells Megatron (token_set.h).
inline std::vector<std::int64_t> document_starts(const std::string& prefix) {
  const std::string index = read_text(prefix + ".idx", std::size_t{1} << 26);
  const auto number = [&]<class T>(T, std::size_t at) {
    T value;
    std::memcpy(&value, index.data() + at, sizeof value);
    return static_cast<std::int64_t>(value);
  };
  const std::int64_t sequences = number(std::uint64_t{}, 18), documents = number(std::uint64_t{}, 26);
  std::vector<std::int64_t> token_of = {0}, starts;
  for (std::int64_t i = 0; i < sequences; ++i)
    token_of.push_back(token_of.back() + number(std::int32_t{}, static_cast<std::size_t>(34 + 4 * i)));
  for (std::int64_t i = 0; i < documents; ++i)
    starts.push_back(token_of[static_cast<std::size_t>(
        number(std::int64_t{}, static_cast<std::size_t>(34 + 12 * sequences + 8 * i)))]);
  return starts;
}

}  // namespace upcycle
