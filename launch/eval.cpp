#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/backend.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/model_files.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/serve/loaded_model.h"
#include "parallel/train/evaluate.h"

namespace upcycle {
namespace {

// UTF-8 bytes to which the predicted tokens (all but the first) decode.
std::int64_t predicted_bytes(const TokenSet& set, const Tokenizer& tokenizer) {
  constexpr std::int64_t kPiece = 1 << 16;
  std::vector<std::int32_t> ids(kPiece);
  bool at_start = true;
  set.read(0, 1, ids.data());
  (void)tokenizer.decoded_bytes(std::span(ids).first(1), at_start);
  std::int64_t bytes = 0;
  for (std::int64_t first = 1; first < set.tokens(); first += kPiece) {
    const std::int64_t n = std::min(kPiece, set.tokens() - first);
    set.read(first, n, ids.data());
    bytes += tokenizer.decoded_bytes(std::span(ids).first(static_cast<std::size_t>(n)), at_start);
  }
  return bytes;
}

}  // namespace

int run_eval(const Arguments& arguments) {
  std::string dir, data, tokenizer_file, dtype = "fp32", device = "cpu";
  std::int64_t S = 0, B = 0;
  bool json = false;
  Options options(
      "eval",
      "Held-out loss: reads a token set in windows of seq-length; every token but the first is predicted once.");
  options.positional("model", dir, "a checkpoint or a Hugging Face directory");
  options.option("--data", data, "PREFIX of the token set", Need::Required);
  options.option("--tokenizer", tokenizer_file, "for loss per byte; by default the model's own");
  options.option("--seq-length", S, "0: the model's max_position_embeddings, at most 2048");
  options.option("--batch", B, "sequences per pass; 0: about 4096 tokens");
  options.option("--dtype", dtype, "fp32 or bf16");
  options.option("--device", device, "cpu or cuda");
  options.flag("--json", json, "print one JSON object: loss, tokens, bytes, loss_per_byte");
  if (!options.parse(arguments)) return 0;
  const Backend backend = make_backend(device);
  const auto source = open_model(dir);
  const ModelConfig model = source->model();
  check_kernel_limits(device, model, dir);
  if (S < 0 || B < 0) input_error("command line: --seq-length and --batch: found {} and {}, expected 0 or more", S, B);
  if (S > model.max_position_embeddings)
    input_error("command line: --seq-length: found {}, expected at most the model's max_position_embeddings = {}", S,
                model.max_position_embeddings);
  if (S == 0) S = std::min<std::int64_t>(2048, model.max_position_embeddings);
  if (B == 0) B = std::max<std::int64_t>(1, 4096 / S);
  const TokenSet set = TokenSet::open(data, model.vocab_size);
  const auto tokenizer = find_tokenizer(tokenizer_file, dir, model);
  const EvalWindows windows(set, S);

  check_fits_weights(backend, model, parse_dtype(dtype));
  const LoadedModel m = load_model(*source, parse_dtype(dtype), *backend.device, *backend.stream, *backend.ops);
  Pass pass = make_pass(m, std::min(B, windows.count()), S);
  const EvalResult r = evaluate(*pass.model, pass.batch, windows, 0);
  nlohmann::ordered_json result{{"loss", r.loss}, {"tokens", r.tokens}, {"bytes", nullptr}, {"loss_per_byte", nullptr}};
  if (tokenizer != nullptr) {
    const std::int64_t bytes = predicted_bytes(set, *tokenizer);
    result["bytes"] = bytes;
    if (bytes > 0) result["loss_per_byte"] = r.loss * static_cast<double>(r.tokens) / static_cast<double>(bytes);
  }
  if (json) {
    fmt::print("{}\n", result.dump());
  } else {
    fmt::print("{}: loss {:.4f} nats per token over {} tokens", data, r.loss, r.tokens);
    if (!result["loss_per_byte"].is_null()) fmt::print(", {:.4f} nats per byte", result["loss_per_byte"].get<double>());
    fmt::print("\n");
  }
  return 0;
}

}  // namespace upcycle
