#pragma once
#include <string>

#include "launch/study/study.h"

namespace upcycle {

// The model that an arm trains: the dense one for null or from dense, else with the arm's experts. InputError where
// they do not fit it.
ModelConfig arm_model(const Study& study, const StudySize& size, const StudyArm* arm);

std::string model_json(const ModelConfig& model);  // only the keys of a dense model, to put into a run's config

}  // namespace upcycle
