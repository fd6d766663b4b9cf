#pragma once
#include "core/config/config.h"
#include "kernels/op_types.h"
#include "parallel/comm/mesh.h"
#include "parallel/model/pass_shape.h"
#include "parallel/model/sizes.h"

namespace upcycle {

class Ops;

// What every layer function works with: the model's sizes on this rank, the device's queue and ops, the other ranks. It
// holds no weights and no activations: what a layer reads and writes is in its signature.
struct ModelContext {
  ModelConfig config;
  Sizes sizes;
  PassShape pass;
  Device* device;
  Stream* stream;
  Ops* ops;
  Workspace workspace;  // of one op call
  const Mesh* mesh;
  Tensor rope_table;  // fp32 (max positions, R)

  std::int64_t T() const { return pass.T(); }
  std::int64_t T_local() const { return pass.T() / mesh->layout.tp; }
};

}  // namespace upcycle
