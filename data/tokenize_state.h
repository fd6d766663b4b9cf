#pragma once
#include <optional>
#include <string>

#include "data/token_pipeline.h"

// PREFIX.resume: how far tokenize came, should it be killed. It is of one tokenizer, one list of input files with their
// sizes and times, and one way to read them.
namespace upcycle {

class TokenizeState {
 public:
  explicit TokenizeState(const TokenizeOptions& options);
  // What is there to go on from: nothing without the file, where it is of another call (said), or where a file that it
  // speaks of is gone.
  std::optional<TokenPipeline::Saved> read(std::int64_t vocab_size) const;
  void write(const TokenPipeline::Saved& saved) const;
  void remove() const;
  bool kept() const { return !of_.empty(); }  // not where an input is a pipe

 private:
  std::string path_, output_, of_;
  bool mask_;
};

}  // namespace upcycle
