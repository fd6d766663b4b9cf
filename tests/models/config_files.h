#pragma once
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "parallel/models/hf_config.h"
#include "tests/data/expect_input_error.h"

// A config.json of each family for tests, and what they ask of it.
namespace upcycle::test {

using nlohmann::json;

json llama();
json mixtral();
json mistral();
json qwen2();
json qwen3();
json olmo2();
json smollm3();
json granite();
json phi3();
json gemma();
extern const char* const llama3;  // a scaling of RoPE

json with(json file, const char* key, const json& value);  // `file` with one key changed
HfConfig parse(const json& file);                          // as m/config.json
void expect_refused(const json& file, std::initializer_list<const char*> parts);

// What the family's file says of biases and norms.
void expect_forms(const json& file, const char* attention_bias, const char* qk_norm, const char* norm_placement);
// Written as its own family it has the same keys but for `without`, and nothing else than that family is chosen for it;
// Llama can not say it.
void expect_written_as_itself(const json& file, const std::set<std::string>& without = {});

}  // namespace upcycle::test
