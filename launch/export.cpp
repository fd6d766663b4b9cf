#include "parallel/models/export.h"

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
#include "parallel/models/weight_type.h"

namespace upcycle {
namespace {

// Weights that are what they were when they came in.
bool untrained(const std::string& dir, const ModelConfig& model, const OriginalConfig& original) {
  return model.is_moe() == original.read.model.is_moe() &&
         (!is_checkpoint(dir) || look_at_step(dir).manifest.info.step == 0);
}

StoredType parse_type(const std::string& text) {
  const WeightType* type = find_weight_type(text);
  if (type == nullptr || text != type->name)
    input_error("command line: --dtype: found {}, expected {}", quote_text(text), weight_type_names());
  return type->stored;
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
                 "fp32, bf16 or fp16; by default fp32, or what the model came in as if it was not trained since");
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
  if (!dtype.empty()) e.type = parse_type(dtype);
  const auto source = open_model(dir);
  const Origin origin = read_origin(travelling_files(model_folder(dir)));
  const OriginalConfig* const original = origin.original();
  if (dtype.empty() && original != nullptr && untrained(dir, source->model(), *original)) {
    if (const WeightType* type = find_weight_type(original->read.dtype); type != nullptr) {
      e.type = type->stored;
      e.exact = true;
    }
  }
  e.model_type = exported_family(source->model(), e.model_type, original).model_type;
  e.card = model_card(*source, dir, out, e.type, e.model_type);
  export_huggingface(*source, origin, out, e);
  log_info("exported {} to {}", dir, out);
  return 0;
}

}  // namespace upcycle
