#pragma once
#include "parallel/model/tensor_source.h"
#include "parallel/train/trainer.h"
#include "parallel/upcycle/expert_maker.h"

// What drop_ratio draws from: the mean and standard deviation of each whole dense matrix. The sums do not depend on
// order, so each rank adds up a share of the elements and the shares are added in one all_reduce over the world.
namespace upcycle {

// Of the matrices that the experts of `moe` are made of. InputError if one holds values that can not be weights (NaN,
// or 2^16 and above).
DenseStatistics file_statistics(TensorSource& dense, const ModelConfig& moe);
// The same, each rank reading a share of each matrix's rows. A collective call, whose InputError is agreed.
DenseStatistics file_statistics(TensorSource& dense, const ModelConfig& moe, Communicator& world, Device& device,
                                Stream& stream);

// The same of a running dense model, each rank adding up the masters it owns. A collective call.
DenseStatistics live_statistics(const Trainer& dense, const ModelConfig& moe);
// Bytes that a rank gives to the all_reduce.
std::int64_t statistics_bytes(const ModelConfig& moe);

}  // namespace upcycle
