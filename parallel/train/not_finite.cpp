#include "parallel/train/not_finite.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/finite.h"
#include "core/staging.h"
#include "parallel/model/weights.h"
#include "parallel/train/findings.h"
#include "parallel/train/look_again.h"
#include "parallel/train/microbatch.h"

namespace upcycle {
namespace {

bool is_finite(Staging& staging, const Tensor& x) {
  if (x.dtype != DType::F32 && x.dtype != DType::BF16 && x.dtype != DType::F64) return true;
  bool finite = true;
  std::vector<float> wide;
  staging.read(x, [&](const void* host, std::int64_t, std::int64_t rows) {
    const std::int64_t n = rows * x.columns();
    if (x.dtype == DType::F32) {
      finite = finite && first_not_finite(static_cast<const float*>(host), n) < 0;
    } else if (x.dtype == DType::F64) {
      const auto* const values = static_cast<const double*>(host);
      finite = finite && std::all_of(values, values + n, [](double v) { return std::isfinite(v); });
    } else {
      const auto* const values = static_cast<const bf16*>(host);
      wide.resize(static_cast<std::size_t>(n));
      std::transform(values, values + n, wide.begin(), [](bf16 v) { return to_float(v); });
      finite = finite && first_not_finite(wide.data(), n) < 0;
    }
  });
  return finite;
}

struct Found {
  std::int64_t place = -1;
  std::string name, parameter;
};

Found look_for(Trainer& t, Staging& staging, std::int64_t j, double valid) {
  Found found;
  look_at_microbatch(t, j, valid, [&](const Seen& seen) {
    const bool wanted = found.place < 0 || (found.parameter.empty() && !seen.parameter.empty());
    if (!wanted || is_finite(staging, seen.values)) return;
    if (found.place < 0) found.place = seen.place, found.name = seen.name;
    if (found.parameter.empty()) found.parameter = seen.parameter;
  });
  return found;
}

}  // namespace

std::string find_not_finite(Trainer& t) {
  Staging staging(*t.device, *t.stream);
  std::int64_t place = -1;
  for (std::int64_t i = 0; const ParamRow& row : t.table().rows) {
    if (!is_finite(staging, view_row(row, t.memory.weights.dense, t.memory.weights.expert))) place = i;
    if (place >= 0) break;
    ++i;
  }
  const std::string rank = rank_and_host(*t.mesh);
  std::string text = place < 0 ? ""
                               : fmt::format("{} itself is not finite on {}",
                                             t.table().rows[static_cast<std::size_t>(place)].name, rank);
  text = earliest(*t.mesh->world, place, text);
  if (!text.empty()) return text;
  const double valid = valid_tokens(t);
  const std::int64_t n = microbatches_here(t);
  for (std::int64_t j = 0; j < n; ++j) {
    const Found found = look_for(t, staging, j, valid);
    text = fmt::format("{} is the first that is not finite, on {} in microbatch {}", found.name, rank,
                       t.mesh->at.dp * n + j);
    if (!found.parameter.empty() && !found.name.ends_with(" " + found.parameter))
      text += ", and then the gradient of " + found.parameter;
    text = earliest(*t.mesh->world, found.place, text);
    if (!text.empty()) return text;
  }
  return "computed again, everything is finite on every rank: a passing fault of a memory, a processor or a link";
}

}  // namespace upcycle
