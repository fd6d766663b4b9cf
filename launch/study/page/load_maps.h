#pragma once
#include <string>
#include <vector>

namespace upcycle::study_page {

// How the tokens of each layer spread over its experts, at the end and over time, as heat maps. shares[time][layer]
// [expert]: parts of the layer's assignments; `tokens`: trained on at each time; `layers`: their numbers.
std::string load_maps(const std::string& run, const std::vector<double>& tokens, const std::vector<double>& layers,
                      const std::vector<std::vector<std::vector<double>>>& shares);

}  // namespace upcycle::study_page
