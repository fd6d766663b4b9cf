#pragma once
#include <string>
#include <vector>

#include "launch/charts/heat_map.h"

namespace upcycle::study_page {

using Shares =
    std::vector<std::vector<std::vector<double>>>;  // [time][layer][expert]: parts of the layer's assignments

// How the tokens of each layer spread over its experts, at the end and over time, as heat maps. `tokens`: trained on
// at each time; `layers`: their numbers.
std::string load_maps(const std::string& run, const std::vector<double>& tokens, const std::vector<double>& layers,
                      const Shares& shares);
// The first of them.
charts::HeatMap load_at_the_end(const std::string& run, const std::vector<double>& layers, const Shares& shares);

}  // namespace upcycle::study_page
