#pragma once
#include <functional>
#include <memory>
#include <span>

#include "core/arena.h"
#include "kernels/dry/dry_ops.h"
#include "parallel/serve/loaded_model.h"
#include "parallel/serve/server.h"

namespace upcycle {

// Shown the logits fp32 (V) of each row from which a token is about to be drawn; on every rank of the replica.
using SeeLogits = std::function<void(const Sequence&, std::span<const float> logits)>;

// Serves requests with a loaded model over the ranks of its mesh: tp cuts each layer, ep spreads experts, each dp rank
// is a replica with its own sequences and cache. `options` are of one replica. Every rank schedules all replicas by the
// same rules from the same requests, so plans never travel; the drawn tokens do. A step of a size that was seen before
// allocates nothing. The model must outlive the engine.
std::unique_ptr<Server> make_engine(const LoadedModel& model, const SchedulerOptions& options,
                                    const SeeLogits& see_logits = {});

// Bytes of one rank by class: weights, key/value cache, and what a step needs on its device and on its host, exactly
// what loading the model and make_engine allocate; and what communicators take (on CUDA an estimate).
std::vector<MemoryClass> engine_memory(const ModelConfig& model, const Layout& layout, int rank, DType dtype,
                                       const SchedulerOptions& options, DeviceKind computes,
                                       const WorkspaceBytes& workspace_bytes);

}  // namespace upcycle
