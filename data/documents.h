#pragma once
#include <cstdint>

#include "core/config/config.h"

namespace upcycle {

class TokenSet;

// How documents that share a sequence are kept apart, under Megatron-LM's names. A document's last token is `eod`;
// where a sequence begins inside a document, what is left of it is a document too.
struct DocumentRules {
  bool reset_attention_mask = false;  // a token sees its own document only
  bool reset_position_ids = false;    // positions count from 0 in each document
  bool eod_mask_loss = false;         // what follows an eod is not predicted from it
  std::int32_t eod = -1;              // -1 where none of them is on

  bool any() const { return reset_attention_mask || reset_position_ids || eod_mask_loss; }
};

// Those of the config, whose data.eod_token_id is resolved.
DocumentRules document_rules(const DataConfig& c);

// Tokens [first, first + count) of the set as targets, first > 0: -1 for one that is not to be predicted.
void read_targets(const TokenSet& set, const DocumentRules& rules, std::int64_t first, std::int64_t count,
                  std::int32_t* out);

// Whether the set's documents, of many a thousand spread evenly, end with `rules.eod`: where they do not, documents
// would be found in the wrong places. InputError naming the first that does not; a warning where it is inside one too.
void check_document_ends(const TokenSet& set, const DocumentRules& rules);

}  // namespace upcycle
