#pragma once
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/model/params.h"
#include "parallel/train/schedule.h"

// Rates and weight decay by parameter: train.param_groups, of which the first whose pattern matches a parameter's name
// is its group, and train.decoupled_lr of the embedding and the output layer, as Megatron has it. lr_mult multiplies
// either.
namespace upcycle {

struct RowRate {
  double lr_mult, weight_decay;
  bool decoupled;  // it follows LearningRates::decoupled
  double lr(const LearningRates& rates) const { return lr_mult * (decoupled ? rates.decoupled : rates.general); }
};
RowRate rate_of(const TrainConfig& train, const ParamRow& row);

// Throws InputError for a group that no parameter of the model is in: one whose pattern matches none, or only such as
// earlier groups have. With upcycle.at_step the model has others after it than before: groups are checked, for both
// together, where config.model is the one after it.
void check_param_groups(const Config& config);

// A line for each group and for what is in none: how many parameters, their highest and lowest rate, their decay. None
// where all are updated alike.
std::vector<std::string> describe_param_groups(const Config& config);

}  // namespace upcycle
