#include "data/utf8.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace upcycle {
namespace {

// A character, or as much of one as there is before a byte that does not continue it.
struct Part {
  std::size_t bytes = 1;
  bool whole = false;
  bool at_end = false;  // the text ends inside it
};

Part first_part(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {};
  const std::size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xbf;  // range of the next byte
  if (lead == 0xe0) low = 0xa0;           // overlong
  if (lead == 0xed) high = 0x9f;          // surrogates
  if (lead == 0xf0) low = 0x90;           // overlong
  if (lead == 0xf4) high = 0x8f;          // past U+10FFFF
  for (std::size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {i, false, true};
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < low || c > high) return {i, false, false};
    low = 0x80, high = 0xbf;
  }
  return {size, true, false};
}

}  // namespace

std::size_t valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    std::uint64_t eight;  // runs of ASCII, eight at a time
    if (i + 8 <= text.size() && (std::memcpy(&eight, text.data() + i, 8), (eight & 0x8080808080808080u) == 0)) {
      i += 8;
      continue;
    }
    const Part part = first_part(text.substr(i));
    if (!part.whole) return i;
    i += part.bytes;
  }
  return text.size();
}

std::size_t unfinished_utf8(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const std::string_view end = text.substr(text.size() - back);
    if ((static_cast<unsigned char>(end[0]) & 0xc0) == 0x80) continue;  // inside a character
    const Part part = first_part(end);
    return part.at_end ? part.bytes : 0;
  }
  return 0;
}

std::string replaced_utf8(std::string_view text, std::int64_t& replaced) {
  std::string mended;
  while (!text.empty()) {
    const std::size_t valid = valid_utf8(text);
    mended.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    mended.append("\xef\xbf\xbd");
    ++replaced;
    text.remove_prefix(first_part(text).bytes);
  }
  return mended;
}

std::string replaced_surrogates(std::string_view json, std::int64_t& replaced) {
  std::string mended(json);
  // The code of a \u escape at i, or -1.
  const auto code_at = [&](std::size_t i) {
    int code = -1;
    if (i + 6 > mended.size() || mended[i] != '\\' || mended[i + 1] != 'u') return -1;
    const auto [end, error] = std::from_chars(mended.data() + i + 2, mended.data() + i + 6, code, 16);
    return error == std::errc{} && end == mended.data() + i + 6 ? code : -1;
  };
  for (std::size_t i = 0; i < mended.size();) {
    if (mended[i] != '\\') {
      ++i;
      continue;
    }
    const int code = code_at(i), next = code_at(i + 6);
    const bool high = code >= 0xd800 && code < 0xdc00, low = code >= 0xdc00 && code < 0xe000;
    if (high && next >= 0xdc00 && next < 0xe000) {
      i += 12;
    } else if (high || low) {
      mended.replace(i, 6, "\\ufffd");
      ++replaced;
      i += 6;
    } else {
      i += code >= 0 ? 6 : 2;
    }
  }
  return mended;
}

}  // namespace upcycle
