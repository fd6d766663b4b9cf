#pragma once
#include <memory>

#include "parallel/model/batch.h"
#include "parallel/model/params.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

class Ops;
struct Transformer;

// A model read for inference on one rank: its weights, and a pass laid out over them.
struct LoadedModel {
  Device* device = nullptr;
  Stream* stream = nullptr;
  Ops* ops = nullptr;
  std::unique_ptr<Mesh> mesh;
  ModelConfig config;
  DType dtype = DType::F32;
  ParamTable table;
  Arena weights{"weights"};
  Tensor dense, expert;  // flat parameters
};
LoadedModel load_model(TensorSource& source, DType dtype, Device& device, Stream& stream, Ops& ops);

// One forward pass of B sequences of S over the loaded weights; several may share them.
struct Pass {
  Pass();
  ~Pass();
  Pass(Pass&&) noexcept;
  Pass& operator=(Pass&&) noexcept;

  Arena arena{"activations"};
  std::unique_ptr<Transformer> model;
  Batch batch;
};
// `positions`: how far a cache will reach, where that is further than S.
// InputError where S is longer than the model's max_position_embeddings.
Pass make_pass(const LoadedModel& m, std::int64_t B, std::int64_t S, std::int64_t positions = 0);

// Copies one microbatch's tokens and targets (B * S each) to the device.
void set_batch(Pass& pass, std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets);

}  // namespace upcycle
