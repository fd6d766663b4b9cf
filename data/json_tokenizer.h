#pragma once
#include <memory>

#include "data/tokenizer.h"

namespace upcycle {

// A Hugging Face tokenizer.json, read by the Python package `tokenizers` in a process of its own, which lives as long
// as this. Its Python is $UPCYCLE_PYTHON, else the one that `launch/install.sh tokenizer_json` made, else python3. As
// in transformers, special tokens spelled out in a text are those tokens. The tokens that begin and end a document are
// those that a tokenizer_config.json beside the file names. InputError where Python, the package or the file fails.
std::unique_ptr<Tokenizer> open_json_tokenizer(const std::string& file);

}  // namespace upcycle
