#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "parallel/model/params.h"
#include "parallel/upcycle/rules.h"

namespace upcycle {

// Mean and standard deviation of dense matrices, by name: what drop_ratio draws from.
using DenseStatistics = std::map<std::string, MatrixStatistics>;

// Part of a dense tensor; "" where a parameter comes from none: routers, and routed downs beside a shared expert.
struct Origin {
  std::string tensor;
  Rectangle part;
};

// How a dense model's tensors become the MoE's, one rectangle at a time; upcycling from files and in a live run both
// use it. `moe` comes from upcycled_model(). Every value is a pure function of (dense value, seed, tensor, element), so
// no layout or cut into rectangles changes a bit. One thread at a time: make() caches which units are dropped, F bits
// per expert.
class ExpertMaker {
 public:
  ExpertMaker(const ModelConfig& moe, const UpcycleConfig& upcycle, std::uint64_t seed, DenseStatistics statistics);

  const ModelConfig& model() const { return moe_; }
  // The dense rectangle that `part` of an MoE parameter is made of; of the same shape.
  Origin origin(const ParamRow& row, const Rectangle& part) const;
  // values (part.rows, part.columns): the origin's on entry, the parameter's on return. Routers are drawn normal with
  // upcycle.router_std, tied within a virtual group; routed downs beside a shared expert are zero. Of experts, dropped
  // units are redrawn from their matrix's statistics; noise is added to gate, up and down alike; upcycle.scale then
  // multiplies, so that noise keeps its size beside the weights. Retained parameters are unchanged.
  void make(const ParamRow& row, const Rectangle& part, float* values) const;
  // Whether make() changes an expert's values at all.
  bool changes(const ParamRow& row) const;
  // Whether experts made of bf16-rounded dense weights are, bit for bit, the rounding of those made of the fp32
  // masters: copies and factors that are powers of two (numbers below 2^-126 aside).
  bool commutes_with_rounding() const;

 private:
  void draw_router(const ParamRow& row, const Rectangle& part, float* values) const;
  const std::vector<bool>& dropped(const ParamRow& row) const;
  void drop(const ParamRow& row, const Rectangle& part, float* values) const;
  void add_noise(const ParamRow& row, const Rectangle& part, float* values) const;

  ModelConfig moe_;
  UpcycleConfig upcycle_;
  std::uint64_t seed_;
  DenseStatistics statistics_;
  // By layer and expert. All are kept: choosing them sorts all units, and an exchange visits many layers per round.
  mutable std::map<std::pair<std::int64_t, std::int64_t>, std::vector<bool>> dropped_;
};

// The dense tensor that becomes this parameter of the MoE unchanged: of the same name or, for a shared expert, the
// MLP's. "" for routers and routed experts, which are new.
std::string retained_tensor(const ParamRow& row);

// The dense matrices that experts are made of, in the order of layers.
struct DenseMatrix {
  std::string name;
  std::int64_t rows, columns;
};
std::vector<DenseMatrix> expert_origins(const ModelConfig& moe);

}  // namespace upcycle
