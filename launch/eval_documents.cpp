#include "launch/eval_documents.h"

#include "core/config/parse.h"
#include "core/error.h"
#include "core/log.h"
#include "core/suggest.h"
#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {
namespace {

// What the run that saved the model had; of a model from elsewhere the defaults.
DataConfig data_of_run(const TensorSource& model) {
  const auto* const checkpoint = dynamic_cast<const Checkpoint*>(&model);
  if (checkpoint == nullptr || checkpoint->info().config.empty()) return {};
  return parse_config_text(checkpoint->info().config, checkpoint->directory() + "/manifest.json", {}).data;
}

void set(bool& value, const char* key, const std::string& text) {
  if (text.empty()) return;
  if (text != "true" && text != "false")
    input_error("command line: --data.{}: found {}, expected true or false", key, quote_text(text));
  value = text == "true";
}

}  // namespace

void declare(Options& options, DocumentOptions& o) {
  const std::string meaning = "true or false; by default as the model's run had it";
  options.option("--data.reset_attention_mask", o.reset_attention_mask, meaning);
  options.option("--data.reset_position_ids", o.reset_position_ids, meaning);
  options.option("--data.eod_mask_loss", o.eod_mask_loss, meaning);
  options.option("--data.eod_token_id", o.eod_token_id,
                 "for these three; -1: what the model's run had, else the model's eos_token_id");
}

DocumentRules rules_of(const DocumentOptions& o, const TensorSource& model) {
  DataConfig data = data_of_run(model);
  set(data.reset_attention_mask, "reset_attention_mask", o.reset_attention_mask);
  set(data.reset_position_ids, "reset_position_ids", o.reset_position_ids);
  set(data.eod_mask_loss, "eod_mask_loss", o.eod_mask_loss);
  if (o.eod_token_id >= 0) data.eod_token_id = o.eod_token_id;
  if (data.eod_token_id < 0) data.eod_token_id = model.model().eos_token_id;
  const DocumentRules rules = document_rules(data);
  if (!rules.any()) return {};
  if (rules.eod < 0)
    input_error(
        "command line: --data.eod_token_id: found none, and none in the model, expected the token that ends a "
        "document: data.reset_attention_mask, data.reset_position_ids and data.eod_mask_loss find documents by it");
  log_info(
      "documents: data.reset_attention_mask {}, data.reset_position_ids {}, data.eod_mask_loss {}; token {} ends a "
      "document",
      rules.reset_attention_mask, rules.reset_position_ids, rules.eod_mask_loss, rules.eod);
  return rules;
}

}  // namespace upcycle
