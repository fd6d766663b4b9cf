#pragma once
#include <map>
#include <string>

namespace upcycle {

// The weight_map of a model.safetensors.index.json: which file has a tensor. InputError, naming `path`, for a text that
// is not such an index, and for any file that is not in the index's own folder: a model from elsewhere must not make us
// read outside of it.
std::map<std::string, std::string> parse_weight_map(const std::string& text, const std::string& path);

}  // namespace upcycle
