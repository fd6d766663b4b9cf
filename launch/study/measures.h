#pragma once
#include <string>
#include <vector>

#include "launch/study/grid.h"

namespace upcycle {

// What is measured of one finished run; OUTPUT/runs/NAME/measures.json is its file.
struct DocumentLoss {
  double loss = 0;          // sum over its predicted tokens, nats
  std::int64_t tokens = 0;  // predicted
  std::int64_t bytes = 0;   // UTF-8 bytes that they decode to
};
struct SetMeasures {
  std::string name;                     // of the held-out set
  std::vector<DocumentLoss> documents;  // in the order of the set
  std::vector<double> cloze;            // of each item 1: the model chose the true one, 0: another, 1/m: one of m that
                                        // are equal; empty: not asked
  std::vector<std::int64_t> cloze_documents;  // of each item the one of `documents` that holds its first token; empty:
                                              // not known
  std::int64_t candidates = 0;                // of each item
};
struct RunMeasures {
  std::int64_t steps = 0, tokens = 0, parameters = 0, active_parameters = 0;
  double flops = 0;  // causal, as the trainer counts
  double wall_seconds = 0, tokens_per_s = 0;
  double last_50_loss = 0;  // mean training loss of the last 50 steps
  std::vector<SetMeasures> sets;
  Json experts;  // what `upcycle experts --json` says of each kept checkpoint, oldest first; null: dense
};
Json to_json(const RunMeasures& m);
RunMeasures measures_from_json(const Json& j, const std::string& where);  // InputError for anything else

struct StudyResult {
  StudyRun run;
  std::string status;    // "done" | "failed" | "missing"
  std::string error;     // failed: the last line it said
  std::string folder;    // OUTPUT/runs/NAME
  std::string command;   // repeats it
  RunMeasures measures;  // of a done run
};

// The first half of a held-out set's documents is for choosing learning rates, the second for what is reported: every
// other one would put pieces of one long document into both.
enum class Half { Choosing, Reported };
bool in_half(std::size_t index, std::size_t count, Half half);
// NaN where the half has no document.
double mean_loss(const SetMeasures& set, Half half);  // nats per predicted token
double bits_per_byte(const SetMeasures& set, Half half);

// The cloze items of a half by document, those without any left out: the sum of their credits, and how many they are.
// Where documents are not known all items, each by itself.
struct ClozeSums {
  std::vector<double> credits, items;
};
ClozeSums cloze_sums(const SetMeasures& set, Half half);

}  // namespace upcycle
