#include "parallel/models/huggingface.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "core/suggest.h"
#include "data/safetensors.h"
#include "parallel/model/check_values.h"
#include "parallel/models/family.h"
#include "parallel/models/hf_config.h"
#include "parallel/models/stored_place.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t compare_elements = std::size_t{1} << 20;

std::string shown(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t n : shape) text += fmt::format("{}{}", text.empty() ? "(" : ", ", n);
  return text.empty() ? "()" : text + ")";
}

class HuggingFaceModel : public TensorSource {
 public:
  explicit HuggingFaceModel(const std::string& folder) : folder_(folder) {
    const HfConfig config = read_hf_config(folder);
    model_ = config.model;
    embedding_name_ = config.family->pattern(ParamRole::Embedding);
    head_name_ = config.family->pattern(ParamRole::Head);
    stored_ = SafetensorsSet::open(folder);
    const std::vector<std::string> names = stored_.names();
    // Before the table is built: a wrong size in config.json must not make it endless.
    const auto tensors = static_cast<std::int64_t>(names.size());
    std::int64_t most_experts = tensors;
    for (const std::string& name : names)
      if (stored_.info(name).shape.size() == 3 &&
          stored_.info(name).bytes() > 0)  // else any number of experts of size 0
        most_experts = std::max(most_experts, stored_.info(name).shape[0]);
    if (model_.num_hidden_layers > tensors || model_.num_local_experts > most_experts)
      input_error(
          "{}/config.json: num_hidden_layers, num_local_experts: found {} and {}, but the safetensors hold {} "
          "tensors; the files are not of one model",
          folder_, model_.num_hidden_layers, model_.num_local_experts, tensors);
    places_ = stored_places(*config.family, model_);
    for (const ParamRow& row : make_global_table(model_).rows) check(places_.at(row.name));
    refuse_unknown(names, config.family->constants(model_));
    check_tied();
  }

  const std::string& name() const override { return folder_; }
  const ModelConfig& model() const override { return model_; }
  bool has(const std::string& tensor) const override { return places_.count(tensor) != 0; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    const auto found = places_.find(tensor);
    if (found == places_.end())
      input_error("{}: tensor {}: found none, expected it; the model is another one", folder_, quote_text(tensor));
    const std::string& name = found->second.tensor;
    const Rectangle at = found->second.of(part);
    stored_.read_rectangle(name, at.row, at.rows, at.column, at.columns, out);
    check_values(name, found->second.shape.size() == 1, at, out,
                 [&](std::int64_t, std::int64_t) { return stored_.path_of(name); });
  }

 private:
  // Finds a place's tensor, the tied embedding under either name.
  void check(StoredPlace& place) const {
    std::string& name = place.tensor;
    const bool tied = model_.tie_word_embeddings;
    if (tied && name == embedding_name_ && !stored_.contains(name) && stored_.contains(head_name_)) name = head_name_;
    if (!stored_.contains(name)) {
      std::string advice = "the files are not of the model that config.json describes";
      if (tied && name == embedding_name_) advice = "with tie_word_embeddings it may also be named " + head_name_;
      if (name == head_name_) advice = "set tie_word_embeddings to true in config.json if the head is the embedding";
      input_error("{}: tensor {}: found none, expected {}; {}", folder_, name, shown(place.shape), advice);
    }
    check_stored(name, place.shape);
  }

  void check_stored(const std::string& name, const std::vector<std::int64_t>& shape) const {
    const StoredTensor& t = stored_.info(name);
    if (t.shape != shape)
      input_error("{}: tensor {}: found shape {}, expected {} by config.json; the files are not of one model", folder_,
                  name, shown(t.shape), shown(shape));
    if (!is_float(t.type))
      input_error("{}: tensor {}: found {}, expected F32, BF16, F16 or F64; quantized models can not be read", folder_,
                  name, name_of(t.type));
  }

  // Of tensors that the model has no use for only those without elements and the constants are known, whatever they
  // hold.
  void refuse_unknown(const std::vector<std::string>& names, const std::vector<ConstantTensor>& constants) const {
    std::set<std::string> known;
    for (const ConstantTensor& c : constants) known.insert(c.name);
    for (const auto& [canonical, place] : places_) known.insert(place.tensor);
    for (const std::string& name : names) {
      if (known.count(name) != 0 || name.ends_with("rotary_emb.inv_freq") || stored_.info(name).bytes() == 0) continue;
      if (model_.tie_word_embeddings && name == head_name_) continue;  // see check_tied
      input_error(
          "{}: tensor {}: found it, but the model of config.json has none of that name; only plain {} models can be "
          "read",
          folder_, quote_text(name), family_names(" and "));
    }
  }

  // Both are stored and differ: it is unknown which one is meant.
  void check_tied() const {
    if (!model_.tie_word_embeddings || !stored_.contains(embedding_name_) || !stored_.contains(head_name_)) return;
    const std::int64_t rows = model_.vocab_size, columns = model_.hidden_size;
    check_stored(head_name_, {rows, columns});
    const auto block = std::clamp<std::int64_t>(static_cast<std::int64_t>(compare_elements) / columns, 1, rows);
    std::vector<float> a(static_cast<std::size_t>(block * columns)), b(a.size());
    for (std::int64_t r = 0; r < rows; r += block) {
      const std::int64_t n = std::min(block, rows - r);
      stored_.read_rows(embedding_name_, r, n, a.data());
      stored_.read_rows(head_name_, r, n, b.data());
      for (std::int64_t i = 0; i < n * columns; ++i)
        if (a[static_cast<std::size_t>(i)] != b[static_cast<std::size_t>(i)])
          input_error(
              "{}: tensor {}: found {} in row {}, expected {} as in {}, for config.json ties them; set "
              "tie_word_embeddings to false, or remove one of the two",
              folder_, head_name_, b[static_cast<std::size_t>(i)], r + i / columns, a[static_cast<std::size_t>(i)],
              embedding_name_);
    }
  }

  std::string folder_;
  ModelConfig model_;
  std::string embedding_name_, head_name_;
  SafetensorsSet stored_;
  std::map<std::string, StoredPlace> places_;  // by canonical name
};

}  // namespace

bool is_huggingface(const std::string& dir) { return fs::exists(dir + "/config.json"); }

std::unique_ptr<TensorSource> open_huggingface(const std::string& dir) {
  return std::make_unique<HuggingFaceModel>(dir);
}

}  // namespace upcycle
