#include "launch/file_lines.h"

#include "core/error.h"
#include "data/text_reader.h"

namespace upcycle {
namespace {
constexpr std::size_t kMostBytes = std::size_t{64} << 20;  // of a line
}

void for_each_line(const std::string& file, const std::string& of, const TakeLine& take) {
  TextReader reader(file);
  std::string line;
  bool any = false;
  for (TextReader::Piece piece; reader.next(piece);) {
    line += piece.text;
    if (line.size() > kMostBytes)
      input_error("{}:{}: found more than {} bytes, expected {} of at most that; is it the right file?", file,
                  reader.line(), kMostBytes, of);
    if (!piece.ends_line) continue;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != line.npos) {
      take(fmt::format("{}:{}", file, reader.line()), line);
      any = true;
    }
    line.clear();
  }
  if (!any) input_error("{}: found no {}, expected one per line", file, of);
}

}  // namespace upcycle
