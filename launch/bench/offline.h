#pragma once
#include <optional>
#include <vector>

#include "parallel/serve/server.h"

namespace upcycle {

// A row of llama-batched-bench's table: B prompts of PP tokens, then TG steps in which each of the B sequences gets a
// token, nothing else in the batch.
struct OfflineRow {
  std::int64_t PP = 0, TG = 0, B = 0;
  double T_PP = 0, T_TG = 0;                                          // seconds
  std::int64_t N_KV() const { return B * (PP + TG); }                 // rows of the cache
  double S_PP() const { return static_cast<double>(B * PP) / T_PP; }  // tokens/s
  double S_TG() const { return static_cast<double>(B * TG) / T_TG; }
  double T() const { return T_PP + T_TG; }
  double S() const { return static_cast<double>(N_KV()) / T(); }
};

// Measures one row on an idle server; nothing if the server could not decode the B sequences together (its cache or
// max_num_seqs is too small), or max_model_len is too short for PP, TG and the steps in which the sequences that were
// read first decode while the last are read.
std::optional<OfflineRow> measure_offline(Server& server, std::int64_t PP, std::int64_t TG, std::int64_t B,
                                          std::int64_t vocab_size, std::int64_t max_model_len);

}  // namespace upcycle
