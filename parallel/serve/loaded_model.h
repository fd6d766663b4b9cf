#pragma once
#include <memory>

#include "parallel/model/batch.h"
#include "parallel/model/params.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

class Ops;
struct Transformer;

// A model read for inference: this rank's part of its weights, over which passes are laid out.
struct LoadedModel {
  Device* device = nullptr;
  Stream* stream = nullptr;
  Ops* ops = nullptr;
  const Mesh* mesh = nullptr;
  ModelConfig config;
  DType dtype = DType::F32;
  ParamTable table;
  Arena weights{"weights"};
  Tensor dense, expert;  // flat parameters
};
// Reads this rank's slices. Collective: the ranks of a host read each byte once. Mesh, device, stream and ops must
// outlive the result. InputError where the model does not divide over the layout, or a tensor is missing or not finite.
LoadedModel load_model(TensorSource& source, DType dtype, const Mesh& mesh, Device& device, Stream& stream, Ops& ops);

// One forward pass of B sequences of S over the loaded weights, on all ranks of the mesh; several may share them.
struct Pass {
  Pass();
  ~Pass();
  Pass(Pass&&) noexcept;
  Pass& operator=(Pass&&) noexcept;

  Arena arena{"activations"};
  std::unique_ptr<Transformer> model;
  Batch batch;
};
// B * S must be a multiple of tp. InputError where S is longer than the model's max_position_embeddings, but for rows
// that fill it up to a multiple of tp. `documents`: PassShape's.
Pass make_pass(const LoadedModel& m, std::int64_t B, std::int64_t S, bool documents = false);

// Bytes of this rank by class: the weights and such a pass. Allocates nothing.
std::vector<MemoryClass> plan_pass(const ModelConfig& model, DType dtype, const Mesh& mesh, Ops& ops, std::int64_t B,
                                   std::int64_t S, bool documents = false);

// Copies one microbatch's tokens and targets (B * S each) to the device.
void set_batch(Pass& pass, std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets);

}  // namespace upcycle
