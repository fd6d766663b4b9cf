#pragma once
#include <string>

namespace upcycle {

std::string study_help();  // every key of study.json, for `upcycle help study`

}  // namespace upcycle
