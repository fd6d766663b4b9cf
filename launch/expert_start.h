#pragma once
#include <memory>

#include "parallel/model/tensor_source.h"

namespace upcycle {

// The model with which the run of a checkpoint started, made again from the config in its manifest: upcycled from
// init.upcycle with upcycle.* and the seed, read from init.load, or drawn from the seed. Folders are looked for as that
// config names them and read as they are now.
struct RunStart {
  std::unique_ptr<TensorSource> from;   // what `model` is made from, if it is
  std::unique_ptr<TensorSource> model;  // null: it can not be made, as a warning has said
};
// Null for a model without a run (a Hugging Face directory), for a run that upcycled while it was running
// (upcycle.at_step), and where init.* is gone or another model now.
RunStart start_of_run(const TensorSource& model);

}  // namespace upcycle
