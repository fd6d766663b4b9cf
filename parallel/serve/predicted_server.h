#pragma once
#include <memory>

#include "parallel/serve/cost_model.h"
#include "parallel/serve/server.h"

namespace upcycle {

// A server that computes nothing: the engine's schedulers, one per replica, with a clock that advances by what each
// step would cost. Every token is -1. `options` are of one replica.
std::unique_ptr<Server> make_predicted_server(CostModel cost, const SchedulerOptions& options);

}  // namespace upcycle
