#pragma once
#include <cstddef>
#include <limits>

#include "parallel/model/tensor_source.h"

namespace upcycle {

// How alike the experts of one MoE layer are, as cosines of their weights (gate, up and down in one vector). NaN where
// there is nothing to compare: no start, or a single expert.
struct WeightSimilarity {
  static constexpr double none = std::numeric_limits<double>::quiet_NaN();
  double start = none;                         // of an expert and its start, mean over experts
  double pairs = none, least_of_pairs = none;  // of two experts: mean and minimum over pairs
};
// `start`: the same model before training; null: not known.
WeightSimilarity weight_similarity(TensorSource& model, TensorSource* start, std::int64_t layer);

// Bytes that it takes: a layer's experts in fp32, and one more.
std::size_t weight_similarity_bytes(const ModelConfig& model);

}  // namespace upcycle
