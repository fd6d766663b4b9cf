#pragma once
#include <memory>
#include <string>

#include "core/dtype.h"
#include "data/tokenizer.h"
#include "launch/backend.h"
#include "parallel/model/tensor_source.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

// --dtype's value: fp32 or bf16, else InputError.
DType parse_dtype(const std::string& text);

// The tokenizer of a model: `given` where the user names one, else the sentencepiece file that travels with the
// checkpoint or lies in the Hugging Face directory; null where there is none. Checks that its ids fit the vocabulary.
std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model);

// data.tokenizer's file, before a run that is to carry it along: InputError where it is missing, no tokenizer, of a
// larger vocabulary than the model's, or named so that nobody would find it beside the checkpoint.
void check_tokenizer(const std::string& file, const ModelConfig& model);

// InputError where the kernels of a GPU can not compute this model; `name` says where it comes from.
void check_kernel_limits(const std::string& device, const ModelConfig& model, const std::string& name);

// InputError where this rank's arenas and those of the ranks beside it exceed what is free of the machine's memory; on
// CUDA, where this rank's exceed what is free on its GPU, or what lies in host memory (the checkpoint's snapshot) that
// of the machine. For before any rank takes its arenas: what one has taken the next would no longer find free.
void check_fits_machine(const Backend& backend, const std::vector<MemoryClass>& plan);

// The same of a model that is only read: its weights, in `dtype`, on one rank.
void check_fits_weights(const Backend& backend, const ModelConfig& model, DType dtype);

// The folder of the model's files: the step that a run folder's `latest` names, or the directory itself.
std::string model_folder(const std::string& dir);

}  // namespace upcycle
