#include "launch/bench/decode_ops.h"

#include <fmt/core.h>

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

}  // namespace

std::vector<OpCase> decode_cases(const Backend& b, const Operands& o, const Tensor& weights) {
  Ops& ops = *b.ops;
  Stream& s = *b.stream;
  const Workspace w{o.scratch.data, o.scratch.bytes()};
  const std::int64_t align = b.device->kind() == DeviceKind::Cpu ? 1 : kExpertRowAlign;
  std::vector<OpCase> cases;
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
