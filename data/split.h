#pragma once
#include <string>

#include "data/token_set.h"

namespace upcycle {

// Which documents of a set are for what (data.split): Megatron-LM's "969,30,1", shares of the documents, in their
// order, for training, validation and test. The bounds between them are rounded as Megatron rounds them, half to even.
enum class SplitPart : std::uint8_t { Train, Valid, Test };

struct DataSplit {
  double train = 1, valid = 0, test = 0;  // of their sum
  bool whole() const { return valid == 0 && test == 0; }
};

// `text`: two or three numbers, none negative, the first above 0; "": all is for training. InputError, which names
// `where`, for another text.
DataSplit parse_split(const std::string& text, const std::string& where);

// Keeps that part of the set's documents. InputError where none falls to it.
void keep_part(TokenSet& set, const DataSplit& split, SplitPart part);

// train, valid or test, else InputError naming `where`.
SplitPart parse_split_part(const std::string& text, const std::string& where);

}  // namespace upcycle
