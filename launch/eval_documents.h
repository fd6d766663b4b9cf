#pragma once
#include "data/documents.h"
#include "launch/options.h"
#include "parallel/model/tensor_source.h"

// How eval and experts keep documents apart: as the run that made the model, unless it is told otherwise.
namespace upcycle {

// Its options, under the names of the config's keys. "": as the run had it.
struct DocumentOptions {
  std::string reset_attention_mask, reset_position_ids, eod_mask_loss;
  std::int64_t eod_token_id = -1;
};
void declare(Options& options, DocumentOptions& documents);

// InputError for a value that is not true or false, and where documents are to be kept apart and nothing says which
// token ends one. Says on rank 0 what is not the default.
DocumentRules rules_of(const DocumentOptions& documents, const TensorSource& model);

}  // namespace upcycle
