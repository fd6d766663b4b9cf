#pragma once
#include <string>

#include "core/dtype.h"

namespace upcycle {

// What a step's time is predicted from: the constants of one rank's machine, and of the engine on it. Rates are those
// that are reached, per second.
struct Machine {
  std::string name;
  double memory_bytes = 0, memory_utilization = 0;         // the share of it that weights, cache and activations get
  double memory_rate = 0;                                  // bytes
  double product_rate_bf16 = 0, product_rate_fp32 = 0;     // FLOPs of matrix products
  double expert_efficiency = 0, attention_efficiency = 0;  // of that rate: experts' products, attention
  double link_rate = 0, link_latency = 0;                  // bytes between ranks; seconds of a collective
  double layer_time = 0, moe_layer_time = 0;               // seconds of a layer in a step, whatever it computes
  double moe_row_time = 0;                                 // seconds of a token in an MoE layer
  double host_step_time = 0, host_token_time = 0;          // seconds of a step, and of a token that it draws

  double product_rate(DType dtype) const { return dtype == DType::BF16 ? product_rate_bf16 : product_rate_fp32; }
  bool operator==(const Machine&) const = default;
};

// A JSON object: "name", and for each constant above {"value": number, "source": where it comes from}. InputError
// naming file, field, found and expected where one is missing, unknown, out of its range or without a source.
Machine read_machine(const std::string& file);
Machine parse_machine(const std::string& text, const std::string& file);  // of the file's text; `file` for messages
bool possible(const Machine& machine);  // each constant within the range that read_machine accepts
// The same source for all constants.
void write_machine(const std::string& file, const Machine& machine, const std::string& source);

}  // namespace upcycle
