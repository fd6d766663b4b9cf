#include "parallel/upcycle/upcycled_source.h"

#include "core/check.h"
#include "core/error.h"
#include "parallel/upcycle/dense_statistics.h"

namespace upcycle {
namespace {

class UpcycledSource final : public TensorSource {
 public:
  UpcycledSource(TensorSource& dense, ExpertMaker maker)
      : dense_(dense), maker_(std::move(maker)), table_(make_global_table(maker_.model())) {}

  const std::string& name() const override { return dense_.name(); }
  const ModelConfig& model() const override { return maker_.model(); }

  bool has(const std::string& tensor) const override {
    const ParamRow* row = table_.find(tensor);
    if (row == nullptr) return false;
    const Origin from = maker_.origin(*row, row->part);
    return from.tensor.empty() || dense_.has(from.tensor);
  }

  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    const ParamRow* row = table_.find(tensor);
    UPCYCLE_CHECK(row != nullptr, "no tensor {} in the upcycled model", tensor);
    const Origin from = maker_.origin(*row, part);
    if (!from.tensor.empty()) dense_.read(from.tensor, from.part, out);
    maker_.make(*row, part, out);
  }

 private:
  TensorSource& dense_;
  ExpertMaker maker_;
  ParamTable table_;
};

}  // namespace

std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed) {
  return std::make_unique<UpcycledSource>(
      dense, ExpertMaker(moe, upcycle, seed, upcycle.drop_ratio > 0 ? file_statistics(dense, moe) : DenseStatistics{}));
}

}  // namespace upcycle
