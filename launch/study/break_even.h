#pragma once
#include <optional>
#include <string>
#include <vector>

namespace upcycle {

// A continuation of the dense model that ended (its learning rate decayed): what it cost to train, and its held-out
// loss. Costs are device-seconds throughout, of one machine: measured and predicted ones are never mixed.
struct DenseRun {
  double seconds = 0, loss = 0;
};

struct BreakEvenInput {
  std::vector<DenseRun> dense;  // of one size and duration; any order
  double moe_training = 0;      // device-seconds
  double moe_loss = 0;
  double moe_per_token = 0, dense_per_token = 0;  // served
};

// n* = (C_cpt(L_moe) - C_moe) / (c_moe - c_dense): served tokens at which the dense model's cheaper serving has paid
// for the longer continuation that reaches the MoE's loss.
//   C_cpt(L)  interpolates between the two runs, one after the other in cost, that first enclose L: linear in log cost.
//             Beyond the runs there is only a bound: their largest cost where none reaches L, their smallest where all
//             do.
struct BreakEven {
  std::optional<double> served_tokens;  // n*, or the bound that `answer` words
  std::optional<double> dense_seconds;  // C_cpt(L_moe) where it is known
  std::string answer;                   // the whole
  std::string pays;                     // the same as a clause: "so it pays if fewer than 3.1e9 tokens are served"
};
BreakEven break_even(const BreakEvenInput& in);

// At equal total cost, training + n x serving: what the MoE costs in all at n served tokens, and the loss that the
// dense model reaches for the same; null where no run was trained that short or that long.
struct EqualTotal {
  double served_tokens = 0, total_seconds = 0;
  std::optional<double> dense_loss;
  double moe_loss = 0;
};
std::vector<EqualTotal> equal_total(const BreakEvenInput& in);  // a ladder of round numbers of tokens

extern const char* const kBreakEvenFormula;  // as the report prints it

}  // namespace upcycle
