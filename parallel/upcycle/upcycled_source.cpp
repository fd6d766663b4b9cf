#include "parallel/upcycle/upcycled_source.h"

#include <algorithm>

#include "core/error.h"
#include "parallel/upcycle/statistics.h"

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

// Parameters that come from one dense rectangle.
struct Family {
  Origin origin;
  std::vector<const ParamRow*> rows;
};

std::vector<Family> families_of(const std::vector<const ParamRow*>& rows, const ExpertMaker& maker) {
  std::vector<Family> families;
  std::multimap<std::string, std::size_t> places;
  for (const ParamRow* row : rows) {
    if (row->part.size() == 0) continue;
    Origin origin = maker.origin(*row, row->part);
    const auto [begin, end] = places.equal_range(origin.tensor);
    const auto same = std::find_if(begin, end, [&](const auto& p) {
      return !origin.tensor.empty() && families[p.second].origin.part == origin.part;
    });
    if (same != end) {
      families[same->second].rows.push_back(row);
      continue;
    }
    places.emplace(origin.tensor, families.size());
    families.push_back({std::move(origin), {row}});
  }
  return families;
}

}  // namespace

std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed) {
  return std::make_unique<UpcycledSource>(
      dense, ExpertMaker(moe, upcycle, seed, upcycle.drop_ratio > 0 ? file_statistics(dense, moe) : DenseStatistics{}));
}

void load_upcycled(const std::vector<const ParamRow*>& rows, TensorSource& dense, const ExpertMaker& maker,
                   std::size_t buffer_bytes, const StoreRows& store) {
  const auto half = static_cast<std::int64_t>(buffer_bytes / 2 / sizeof(float));
  std::vector<float> values, made;  // one is the other's source: what is made must leave it for the next expert
  for (const Family& f : families_of(rows, maker)) {
    const std::string& tensor = f.origin.tensor;
    if (!tensor.empty() && !dense.has(tensor))
      input_error("{}: no tensor {}; {} is made of it", dense.name(), tensor, f.rows.front()->name);
    const Rectangle& whole = f.rows.front()->part;
    const std::int64_t step = std::clamp<std::int64_t>(half / whole.columns, 1, whole.rows);
    values.resize(std::max(values.size(), static_cast<std::size_t>(step * whole.columns)));
    for (std::int64_t r = 0; r < whole.rows; r += step) {
      const std::int64_t n = std::min(step, whole.rows - r);
      const Rectangle& from = f.origin.part;
      if (!tensor.empty()) dense.read(tensor, {from.row + r, from.column, n, from.columns}, values.data());
      for (const ParamRow* row : f.rows) {
        const Rectangle part{row->part.row + r, row->part.column, n, whole.columns};
        float* out = values.data();
        if (row != f.rows.back() && maker.changes(*row)) {
          made.assign(values.data(), values.data() + part.size());
          out = made.data();
        }
        maker.make(*row, part, out);
        store(*row, part, out);
      }
    }
  }
}

}  // namespace upcycle
