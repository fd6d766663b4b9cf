#include "tests/data/small_tokenizer.h"

#include <fmt/core.h>
#include <sentencepiece_trainer.h>

#include "core/rng.h"

namespace upcycle {

std::string small_corpus(int sentences) {
  static const std::vector<std::string> words = {
      "the",   "small", "river", "ran",     "past", "stone", "house", "where", "seven", "birds", "sang", "in",
      "quiet", "light", "of",    "morning", "and",  "a",     "child", "kept",  "watch", "until", "Once", "home"};
  std::string text;
  std::uint64_t draw = 0;
  for (int s = 0; s < sentences; ++s) {
    for (int w = 0; w < 9; ++w)
      text += words[rng::below(words.size(), 1, rng::key_of("corpus"), draw++)] + (w < 8 ? " " : ".\n");
  }
  return text;
}

std::string train_small_tokenizer(const TemporaryFolder& folder, const std::string& settings) {
  const std::string corpus = folder.write("small_corpus.txt", small_corpus(300));
  const int vocab = settings.find("byte_fallback") != std::string::npos ? 360 : 104;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      fmt::format("--input={} --model_prefix={} --vocab_size={} --hard_vocab_limit=false --minloglevel=2 "
                  "--num_threads=1 {}",
                  corpus, folder.file("small"), vocab, settings));
  if (!status.ok()) throw std::runtime_error(std::string("training the small tokenizer: ") + status.message());
  return folder.file("small.model");
}

}  // namespace upcycle
