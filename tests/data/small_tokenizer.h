#pragma once
#include <string>
#include <vector>

#include "tests/data/temporary_folder.h"

namespace upcycle {

// The settings that change how spaces are encoded, decoded and cut.
inline const std::vector<std::string> small_tokenizer_settings = {
    "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity --remove_extra_whitespaces=false",
    "--model_type=unigram",
    "--model_type=bpe --add_dummy_prefix=false --remove_extra_whitespaces=false",
    "--model_type=bpe --add_dummy_prefix=false",
    "--model_type=unigram --treat_whitespace_as_suffix=true",
    "--model_type=bpe --split_by_whitespace=false",
};

std::string small_corpus(int sentences);
// Trains a vocabulary of about 150 pieces on small_corpus within milliseconds; returns FOLDER/small.model.
std::string train_small_tokenizer(const TemporaryFolder& folder, const std::string& settings);

}  // namespace upcycle
