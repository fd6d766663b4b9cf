#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "parallel/model/tensor_source.h"
#include "parallel/upcycle/load_upcycled.h"
#include "parallel/upcycle/rules.h"
#include "parallel/upcycle/upcycled_source.h"
#include "tests/data/expect_input_error.h"
#include "tests/train/rig.h"

namespace upcycle::test {

// A model in memory, drawn from (seed, name, element): any rectangle can be read, and every matrix has a mean and a
// standard deviation of its own.
class DrawnModel final : public TensorSource {
 public:
  DrawnModel(const ModelConfig& model, std::uint64_t seed);
  const std::string& name() const override { return name_; }
  const ModelConfig& model() const override { return model_; }
  bool has(const std::string& tensor) const override { return table_.find(tensor) != nullptr; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override;

 private:
  std::string name_ = "a drawn model";
  ModelConfig model_;
  ParamTable table_;
  std::uint64_t seed_;
};

// H 24, F 20 (slices for G 2, 4 and 5), L 2, N 4, K 2, D 6, V 37: small and ragged.
ModelConfig dense_model();

// The expert keys of a target.
ModelConfig experts(std::int64_t E, std::int64_t k, std::int64_t moe_F = 0,
                    const std::string& softmax = "topk_then_softmax");

// A whole tensor, or a part of it.
std::vector<float> read(TensorSource& source, const std::string& tensor, const Rectangle& part);
std::vector<float> read(TensorSource& source, const std::string& tensor);

std::string expert_name(std::int64_t layer, std::int64_t expert, const std::string& w);

inline ::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0)
      return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

// Logits fp32 (T, V) of one sequence, by a forward pass over the source's weights rounded to `dtype`.
std::vector<float> logits_of(Rig& rig, const Mesh& mesh, TensorSource& source, DType dtype,
                             const std::vector<std::int32_t>& tokens);

}  // namespace upcycle::test
