#pragma once
#include <cstdint>
#include <string>

namespace upcycle {

// Makes OUT, a run folder, with step 0 of the Hugging Face model in `source_dir`: fp32 masters, no optimizer state, the
// rows of every matrix cut into `shards` files, so that many ranks can read at once. Tensors are streamed: peak memory
// is one bounded buffer. Tokenizer files travel into the step folder. Published as a run publishes its steps.
// InputError where OUT already holds a checkpoint or files of another kind; on failure nothing of it remains.
void import_model(const std::string& source_dir, const std::string& out, int shards);

// Which of the travelling files a checkpoint names as its tokenizer: tokenizer.model, another .model, tokenizer.json,
// or "".
std::string choose_tokenizer(const std::string& folder);

}  // namespace upcycle
