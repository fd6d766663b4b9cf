#pragma once
#include <functional>
#include <memory>

#include "core/arena.h"
#include "parallel/serve/loaded_model.h"
#include "parallel/serve/server.h"

namespace upcycle {

// Bytes of this rank by class: weights, key/value cache, activations, what the engine holds beside them. From a dry
// run.
std::vector<MemoryClass> engine_memory(const ModelConfig& model, const Layout& layout, int rank, DType dtype,
                                       const SchedulerOptions& options,
                                       const std::function<std::size_t(const OpLimits&)>& workspace_bytes);

// Serves requests with a loaded model over the ranks of its mesh: tp cuts each layer, ep spreads experts, each dp rank
// is a replica with its own sequences and cache. `options` are of one replica. Every rank schedules all replicas by the
// same rules from the same requests, so plans never travel; the drawn tokens do.
std::unique_ptr<Server> make_engine(const LoadedModel& model, const SchedulerOptions& options);

}  // namespace upcycle
