#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "parallel/model/params.h"

namespace upcycle {

// The step counts of the parameters that one rank holds, as a short text: "begin end steps" for each run of rows of the
// global table with one count. Ranks send it to rank 0, which does not know other ranks' experts.
std::string encode_step_counts(const ParamTable& global, const std::map<std::string, std::int64_t>& counts);
// Adds the counts in `text`, several such texts joined.
void decode_step_counts(const ParamTable& global, const std::string& text, std::map<std::string, std::int64_t>& counts);

}  // namespace upcycle
