#pragma once
#include "parallel/train/trainer.h"

// Balancing without a loss (arXiv 2408.15664): after each step the bias of each expert moves by
// model.router_bias_update_rate, up where the expert had fewer of the whole global batch's assignments than the mean,
// down where it had more. The biases are rows of the parameter table, but have no gradient and no moments; a pattern of
// train.freeze that names one keeps it as it is.
namespace upcycle {

// Room for the directions of the moves; none without biases.
RouterBiases take_router_biases(Arena& arena, const ModelConfig& model);

// Moves every bias, in its master and in what the routers work with, by the assignments in t.host_sums (of all ranks,
// so that all move alike). The same bits in whatever form the masters lie.
void move_router_biases(Trainer& t);

}  // namespace upcycle
