#pragma once
#include "launch/commands.h"

namespace upcycle {

// `bench serve`: what a model costs to serve, by itself or beside the dense model that it came from; measured on this
// machine's ranks, predicted for another machine, or measured on any OpenAI-compatible server.
int bench_serve(const Arguments& arguments);

}  // namespace upcycle
