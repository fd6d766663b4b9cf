#include "launch/bench/decode_ops.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "core/staging.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

// The next matrix of `pool` like `matrix`, or, where the pool holds none, that one itself: no cache holds it either.
class Walk {
 public:
  Walk(const Tensor& pool, const Tensor& matrix) : pool_(pool), matrix_(matrix), count_(pool.size() / matrix.size()) {}
  Tensor next() {
    if (count_ == 0) return matrix_;
    Tensor found = matrix_;
    found.data = static_cast<char*>(pool_.data) + static_cast<std::size_t>(at_++ % count_) * matrix_.bytes();
    return found;
  }

 private:
  Tensor pool_, matrix_;
  std::int64_t count_, at_ = 0;
};

// Segments of the first `tokens` tokens' rows, padded as the device wants it.
std::vector<std::int64_t> segments(const Backend& b, const Operands& o, std::int64_t tokens, std::int64_t align) {
  std::vector<std::int32_t> experts(static_cast<std::size_t>(tokens * o.k));
  b.device->copy_to_host(*b.stream, experts.data(), o.experts.data, experts.size() * sizeof(std::int32_t));
  b.stream->synchronize();
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t e = 0; e < o.E; ++e) {
    const std::int64_t rows = std::count(experts.begin(), experts.end(), e);
    offsets.push_back(offsets.back() + (rows + align - 1) / align * align);
  }
  return offsets;
}

// A cache that fills `memory`, of `count` equally long sequences, whose pages lie as they would after some use.
struct FilledCache {
  static constexpr std::int64_t kPageRows = 16;
  Arena arena{"tables of pages"};
  PagedCache cache;
  PagedSequences sequences;
  Tensor scratch;

  FilledCache(const Backend& b, const Operands& o, const Tensor& memory, std::int64_t count) {
    const std::int64_t page = o.K * kPageRows * o.D, most = memory.size() / (2 * page * count), pages = most * count;
    const auto keys = most * kPageRows;
    const OpLimits limits{.N = o.N, .K = o.K, .D = o.D, .keys = keys, .sequences = count, .dtype = memory.dtype};
    const auto layout = [&] {
      sequences = {arena.take(DType::I32, {count + 1}),
                   arena.take(DType::I32, {count}),
                   arena.take(DType::I32, {count, most}),
                   count,
                   1,
                   keys};
      scratch = arena.take(DType::F32, {static_cast<std::int64_t>(b.ops->workspace_bytes(limits) / 4 + 1)});
    };
    layout();
    arena.allocate(*b.device);
    layout();
    cache.k = Tensor(memory.data, memory.dtype, {pages, o.K, kPageRows, o.D});
    cache.v = cache.k;
    cache.v.data = static_cast<char*>(memory.data) + cache.k.bytes();
    Staging staging(*b.device, *b.stream);
    const auto write = [&](const Tensor& to, const std::function<std::int64_t(std::int64_t)>& value) {
      staging.write(to.reshaped({to.size()}), [&](void* host, std::int64_t first, std::int64_t n) {
        for (std::int64_t i = 0; i < n; ++i)
          static_cast<std::int32_t*>(host)[i] = static_cast<std::int32_t>(value(first + i));
      });
    };
    write(sequences.offsets, [](std::int64_t i) { return i; });
    write(sequences.lengths, [&](std::int64_t) { return keys; });
    write(sequences.pages, [&](std::int64_t i) { return i % most * count + i / most; });
  }
};

OpCase attention_case(const Backend& b, const Operands& o, const Tensor& memory, std::int64_t count) {
  const auto filled = std::make_shared<const FilledCache>(b, o, memory, count);
  const std::int64_t keys = filled->sequences.most_keys;
  return {fmt::format("paged_attention ({} sequences of {} keys)", count, keys),
          2 * product_flops(count * keys, o.N, o.D),
          {},
          [=, &b, &o] {
            b.ops->paged_attention(
                *b.stream, {filled->scratch.data, filled->scratch.bytes()}, o.attention.slice_rows(0, count),
                o.qkv.slice_rows(0, count).slice_columns(0, o.N * o.D), filled->cache, filled->sequences);
          },
          2 * static_cast<double>(filled->cache.k.bytes())};
}

}  // namespace

std::vector<OpCase> decode_cases(const Backend& b, const Operands& o, const Tensor& weights) {
  Ops& ops = *b.ops;
  Stream& s = *b.stream;
  const Workspace w{o.scratch.data, o.scratch.bytes()};
  const std::int64_t align = b.device->kind() == DeviceKind::Cpu ? 1 : kExpertRowAlign;
  std::vector<OpCase> cases;
  cases.push_back(attention_case(b, o, weights, std::min<std::int64_t>(32, o.T)));
  for (const std::int64_t tokens : {1, 8, 32}) {
    if (tokens > o.T) break;
    cases.push_back({fmt::format("matmul NT (qkv of {} tokens)", tokens),
                     product_flops(tokens, o.qkv_weight.rows(), o.H),
                     {&o.qkv_weight},
                     [=, &ops, &s, &o, walk = Walk(weights, o.qkv_weight)]() mutable {
                       ops.matmul(s, w, MatmulKind::NT, o.qkv.slice_rows(0, tokens), o.x.slice_rows(0, tokens),
                                  walk.next());
                     }});
    if (o.E == 0) continue;
    const std::vector<std::int64_t> offsets = segments(b, o, tokens, align);
    std::int64_t touched = 0;
    for (std::size_t e = 1; e < offsets.size(); ++e) touched += offsets[e] > offsets[e - 1];
    const double share = static_cast<double>(touched) / static_cast<double>(o.E);
    cases.push_back({fmt::format("grouped_matmul NT (gate and up of {} tokens)", tokens),
                     product_flops(tokens * o.k, 2 * o.moe_F, o.H),
                     {},
                     [=, &ops, &s, &o, walk = Walk(weights, o.expert_weight)]() mutable {
                       ops.grouped_matmul(s, w, MatmulKind::NT, o.expert_gate_up, o.rows, walk.next(), offsets,
                                          Store::Overwrite, align);
                     },
                     share * static_cast<double>(o.expert_weight.bytes())});
  }
  return cases;
}

}  // namespace upcycle
