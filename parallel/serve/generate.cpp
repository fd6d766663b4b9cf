#include "parallel/serve/generate.h"

#include <algorithm>

#include "core/check.h"
#include "parallel/model/transformer.h"
#include "parallel/serve/kv_cache.h"

namespace upcycle {
namespace {

// Runs the pass's tokens behind what the cache holds; returns the last row's logits (V).
std::vector<float> extend(const LoadedModel& m, Pass& pass, KvCache& cache, std::span<const std::int32_t> tokens) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  const auto begin = static_cast<std::int32_t>(cache.length);
  std::vector<std::int32_t> positions;
  for (std::int32_t i = 0; i < n; ++i) positions.push_back(begin + i);
  const std::int32_t offsets[2] = {0, begin + n};
  m.device->copy_from_host(*m.stream, pass.batch.tokens.data, tokens.data(), tokens.size_bytes());
  m.device->copy_from_host(*m.stream, pass.batch.positions.data, positions.data(), pass.batch.positions.bytes());
  m.device->copy_from_host(*m.stream, cache.offsets.data, offsets, sizeof offsets);
  forward_hidden(*pass.model, pass.batch, 0, extended_by(cache, n));
  cache.length += n;
  std::vector<float> out(static_cast<std::size_t>(m.config.vocab_size));
  const Tensor row = pass.model->activations.scratch.logits_row;
  logits(*pass.model, row, n - 1, 1);
  m.device->copy_to_host(*m.stream, out.data(), row.data, out.size() * sizeof(float));
  m.stream->synchronize();
  return out;
}

}  // namespace

std::vector<std::int32_t> generate(const LoadedModel& m, std::span<const std::int32_t> prompt, std::int64_t most,
                                   std::int32_t stop_id, const SamplingOptions& options,
                                   const std::function<void(std::int32_t)>& emit) {
  UPCYCLE_CHECK(!prompt.empty(), "generation needs at least one token to continue");
  const auto n = static_cast<std::int64_t>(prompt.size());
  const std::int64_t capacity = std::min(m.config.max_position_embeddings, n + most);
  Pass prefill = make_pass(m, 1, n);
  Pass decode = make_pass(m, 1, 1, capacity);
  KvCache cache = make_kv_cache(*m.device, prefill.model->sizes, m.dtype, capacity);
  std::vector<std::int32_t> tokens;
  std::vector<float> next = extend(m, prefill, cache, prompt);
  while (static_cast<std::int64_t>(tokens.size()) < most) {
    tokens.push_back(sample_token(next, options, tokens.size()));
    emit(tokens.back());
    if (tokens.back() == stop_id || cache.length >= capacity) break;
    next = extend(m, decode, cache, std::span(tokens).last(1));
  }
  return tokens;
}

}  // namespace upcycle
