#include "launch/common.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/config/fields.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "data/files.h"
#include "kernels/cuda_limits.h"
#include "parallel/checkpoint/import.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {

std::unique_ptr<Tokenizer> open_fitting(const std::string& file, const ModelConfig& model) {
  auto tokenizer = open_tokenizer(file);
  if (tokenizer->vocab_size() > model.vocab_size)
    input_error(
        "{}: found a vocabulary of {} tokens, expected at most the model's vocab_size = {}; give the model's own "
        "tokenizer",
        file, tokenizer->vocab_size(), model.vocab_size);
  return tokenizer;
}

}  // namespace

DType parse_dtype(const std::string& text) {
  if (text == "fp32") return DType::F32;
  if (text == "bf16") return DType::BF16;
  input_error("command line: --dtype: found '{}', expected fp32 or bf16", text);
}

std::string model_folder(const std::string& dir) { return is_checkpoint(dir) ? find_step_folder(dir) : dir; }

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model) {
  if (!given.empty()) return open_fitting(given, model);
  const std::string folder = model_folder(model_dir), name = choose_tokenizer(folder);
  return name.ends_with(".model") ? open_fitting(folder + "/" + name, model) : nullptr;
}

void check_tokenizer(const std::string& file, const ModelConfig& model) {
  const std::string name = std::filesystem::path(file).filename().string();
  if (file == "bytes" || name.ends_with(".model")) {
    (void)open_fitting(file, model);
  } else if (name == "tokenizer.json") {
    constexpr std::size_t most = std::size_t{1} << 28;
    (void)parse_strict_json(read_text(file, most), file);
  } else {
    input_error(
        "data.tokenizer: found {}, expected \"bytes\", a sentencepiece file NAME.model or a Hugging Face "
        "tokenizer.json: the name says which it is beside the checkpoint; rename it",
        file);
  }
}

void check_kernel_limits(const std::string& device, const ModelConfig& model, const std::string& name) {
  if (device != "cuda") return;
  const auto check = [&](const char* key, std::int64_t found, std::int64_t most) {
    if (found > most)
      field_error(name, key, fmt::format("{}", found), fmt::format("at most {} on a GPU", most),
                  "lower it, or use --device=cpu");
  };
  check("model.num_local_experts", model.num_local_experts, cuda::kMostExperts);
  check("model.head_dim", model.head_size(), cuda::kLargestHead);
  check("model.hidden_size", model.hidden_size, cuda::kLargestHidden);
}

namespace {

void check_memory(const Backend& backend, const std::vector<MemoryClass>& plan, const char* advice) {
  constexpr double gib = 1 << 30;
  double on_device = 0, on_host = 0;
  for (const MemoryClass& m : plan)
    (backend.gpu < 0 || m.beside_gpu ? on_host : on_device) += static_cast<double>(m.bytes);
  if (backend.gpu >= 0) {
    const auto have = static_cast<double>(memory_of(backend));
    if (on_device > have)
      input_error(
          "memory: found {:.1f} GiB needed on a GPU, expected at most the {:.1f} GiB that are free on GPU {}; {}",
          on_device / gib, have / gib, backend.gpu, advice);
  }
  const int ranks = backend.ranks_on_host;
  const HostMemory memory = host_memory();
  const auto have = static_cast<double>(memory.free), all = static_cast<double>(memory.total);
  if (on_host * ranks <= have) return;
  input_error(
      "memory: found {:.1f} GiB needed by each of {} rank{} on this machine, expected at most the {:.1f} GiB in all "
      "that "
      "are free of its {:.1f}; {}",
      on_host / gib, ranks, ranks == 1 ? "" : "s", have / gib, all / gib, advice);
}

}  // namespace

void check_fits_machine(const Backend& backend, const std::vector<MemoryClass>& plan) {
  check_memory(
      backend, plan,
      "use a smaller model, train.micro_batch_size or train.seq_length, train.recompute=full, or more machines");
}

void check_fits_weights(const Backend& backend, const ModelConfig& model, DType dtype) {
  const ParamTable table = make_param_table(model, {}, {});
  const auto elements = static_cast<std::size_t>(table.dense.size + table.expert.size);
  check_memory(backend, {{"weights", elements * size_of(dtype)}}, "use --dtype=bf16 or a smaller model");
}

}  // namespace upcycle
