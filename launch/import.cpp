#include "parallel/checkpoint/import.h"
#include "core/error.h"
#include "core/log.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/models/family.h"

namespace upcycle {

int run_import(const Arguments& arguments) {
  std::string dir, out;
  std::int64_t shards = 1;
  Options options("import",
                  "A Hugging Face directory (" + family_names(" or ") + " safetensors) to a sharded HDF5 checkpoint.");
  options.positional("model", dir, "the Hugging Face directory");
  options.positional("out", out, "the checkpoint folder to make");
  options.option("--shards", shards, "number of HDF5 files");
  options.example("upcycle import hf_llama_dir dense --shards=8", "a downloaded model to a checkpoint of eight files");
  if (!options.parse(arguments)) return 0;
  if (shards < 1 || shards > 65536) input_error("command line: --shards: found {}, expected 1 to 65536", shards);
  import_model(dir, out, shards);
  log_info("imported {} to {} in {} file{}", dir, out, shards, shards == 1 ? "" : "s");
  return 0;
}

}  // namespace upcycle
