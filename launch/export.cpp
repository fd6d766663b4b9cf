#include "parallel/models/export.h"

#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/suggest.h"
#include "launch/commands.h"
#include "launch/model_card.h"
#include "launch/model_files.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/models/family.h"
#include "parallel/models/original_config.h"

namespace upcycle {
namespace {

// Weights that are what they were when they came in.
bool untrained(const std::string& dir, const ModelConfig& model, const OriginalConfig& original) {
  return model.is_moe() == original.read.model.is_moe() &&
         (!is_checkpoint(dir) || look_at_step(dir).manifest.info.step == 0);
}

}  // namespace

int run_export(const Arguments& arguments) {
  std::string dir, out, dtype;
  ExportOptions e;
  Options options(
      "export", "A model to a Hugging Face directory (" + family_names(" or ") + ") that transformers and vLLM load.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.positional("out", out, "the directory to make");
  options.option("--dtype", dtype,
                 "fp32 or bf16; by default fp32, or bf16 if the model came in so and was not trained since");
  options.option("--max-shard-bytes", e.max_shard_bytes, "larger models are split into several files");
  options.option(
      "--to", e.model_type,
      "config.json's model_type; by default the one that the model came in as, or the first of llama, mixtral and the "
      "others that can say all of it");
  options.example("upcycle export runs/moe hf_mixtral_dir", "a run's newest checkpoint for transformers and vLLM");
  if (!options.parse(arguments)) return 0;
  if (e.max_shard_bytes < 1)
    input_error("command line: --max-shard-bytes: found {}, expected 1 or more", e.max_shard_bytes);
  if (!e.model_type.empty() && find_family(e.model_type) == nullptr)
    input_error("command line: --to: found {}, expected {}", quote_text(e.model_type), family_types());
  if (!dtype.empty()) e.dtype = parse_dtype(dtype);
  const auto source = open_model(dir);
  const std::vector<std::string> travel = travelling_files(model_folder(dir));
  std::optional<OriginalConfig> original;
  if (const std::string path = original_config(travel); !path.empty()) original = read_original_config(path);
  if (dtype.empty() && original && original->read.dtype == "bfloat16" && untrained(dir, source->model(), *original)) {
    e.dtype = DType::BF16;
    e.exact = true;
  }
  e.model_type = exported_family(source->model(), e.model_type, original ? &*original : nullptr).model_type;
  e.card = model_card(*source, dir, out, e.dtype, e.model_type);
  export_huggingface(*source, travel, out, e);
  log_info("exported {} to {}", dir, out);
  return 0;
}

}  // namespace upcycle
