#include "parallel/checkpoint/step_counts.h"

#include <sstream>

#include "core/check.h"

namespace upcycle {

std::string encode_step_counts(const ParamTable& global, const std::map<std::string, std::int64_t>& counts) {
  std::string text;
  std::size_t found_rows = 0, begin = 0;
  std::int64_t run = -1;  // the count of rows [begin, i), -1: none held
  const auto close = [&](std::size_t end) {
    if (run >= 0) text += fmt::format("{} {} {}\n", begin, end, run);
  };
  for (std::size_t i = 0; i < global.rows.size(); ++i) {
    const auto at = counts.find(global.rows[i].name);
    const std::int64_t count = at == counts.end() ? -1 : at->second;
    found_rows += at != counts.end();
    if (count == run) continue;
    close(i);
    begin = i;
    run = count;
  }
  close(global.rows.size());
  UPCYCLE_CHECK(found_rows == counts.size(), "{} of {} step counts are of parameters of the model", found_rows,
                counts.size());
  return text;
}

void decode_step_counts(const ParamTable& global, const std::string& text,
                        std::map<std::string, std::int64_t>& counts) {
  std::istringstream in(text);
  std::size_t begin = 0, end = 0;
  std::int64_t count = 0;
  while (in >> begin >> end >> count) {
    UPCYCLE_CHECK(begin <= end && end <= global.rows.size(), "rows {} to {} of {}", begin, end, global.rows.size());
    for (std::size_t i = begin; i < end; ++i) counts[global.rows[i].name] = count;
  }
  UPCYCLE_CHECK(in.eof(), "step counts that can not be read: {}", text);
}

}  // namespace upcycle
