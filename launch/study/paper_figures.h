#pragma once
#include "launch/study/study.h"

namespace upcycle {

// What arXiv 2411.08968 ("Sparse Upcycling: Inference Inefficient Finetuning") measured, read off its plots by eye:
// {"source", "loss": [{"size", "duration", "budget", "cpt", "upcycled"}], "gain": [{"size", "duration", "budget",
// "accuracy_gain_percent"}]}. Losses in nats per token, budgets as shares of the pretraining's FLOPs.
Json paper_figures();

}  // namespace upcycle
