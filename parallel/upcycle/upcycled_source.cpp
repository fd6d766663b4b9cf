#include "parallel/upcycle/upcycled_source.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/rng.h"
#include "parallel/upcycle/rules.h"

namespace upcycle {
namespace {

// Where an expert tensor comes from: the dense tensor and the shift of its rectangle.
struct Origin {
  std::string dense;
  std::int64_t row_shift = 0, column_shift = 0;
  bool down = false;
};

bool is_router(const ParamRow& row) { return row.name.ends_with("block_sparse_moe.gate.weight"); }

class UpcycledSource final : public TensorSource {
 public:
  UpcycledSource(TensorSource& dense, const ModelConfig& moe, const UpcycleConfig& upcycle, std::uint64_t seed)
      : dense_(dense), moe_(moe), upcycle_(upcycle), seed_(seed) {
    const ParamTable table = make_global_table(moe);
    for (const ParamRow& row : table.rows) rows_.emplace(row.name, row);
  }

  const std::string& name() const override { return dense_.name(); }
  const ModelConfig& model() const override { return moe_; }

  bool has(const std::string& tensor) const override {
    const auto it = rows_.find(tensor);
    if (it == rows_.end()) return false;
    return is_router(it->second) || dense_.has(origin_name(it->second));
  }

  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    const auto it = rows_.find(tensor);
    UPCYCLE_CHECK(it != rows_.end(), "no tensor {} in the upcycled model", tensor);
    const ParamRow& row = it->second;
    if (row.expert >= 0) {
      read_expert(row, part, out);
    } else if (is_router(row)) {
      draw_router(row, part, out);
    } else {
      dense_.read(retained_tensor(row), part, out);
    }
  }

 private:
  // The dense tensor behind one that is no router.
  static std::string origin_name(const ParamRow& row) {
    if (row.expert < 0) return retained_tensor(row);
    const std::string prefix = "model.layers." + std::to_string(row.layer) + ".mlp.";
    if (row.name.ends_with(".w1.weight")) return prefix + "gate_proj.weight";
    if (row.name.ends_with(".w3.weight")) return prefix + "up_proj.weight";
    return prefix + "down_proj.weight";
  }

  Origin origin_of(const ParamRow& row) const {
    const std::int64_t shift = row.expert % slices(moe_, upcycle_) * moe_.expert_size();
    const bool down = row.name.ends_with(".w2.weight");
    return {origin_name(row), down ? 0 : shift, down ? shift : 0, down};
  }

  void read_expert(const ParamRow& row, const Rectangle& part, float* out) {
    const Origin origin = origin_of(row);
    if (moe_.shared_expert && origin.down) {
      std::fill(out, out + part.size(), 0.0f);
      return;
    }
    dense_.read(origin.dense, {part.row + origin.row_shift, part.column + origin.column_shift, part.rows, part.columns},
                out);
    if (upcycle_.drop_ratio > 0) drop(row, origin, part, out);
    if (upcycle_.noise_std > 0) add_noise(row, part, out);
    const auto scale = static_cast<float>(matrix_scale(moe_, upcycle_, origin.down));
    if (scale != 1) std::transform(out, out + part.size(), out, [scale](float x) { return x * scale; });
  }

  static std::uint64_t element(const ParamRow& row, std::int64_t r, std::int64_t c) {
    return static_cast<std::uint64_t>(r * row.columns + c);
  }

  void draw_router(const ParamRow& row, const Rectangle& part, float* out) const {
    const std::uint64_t key = rng::key_of(row.name);
    const std::int64_t G = slices(moe_, upcycle_);
    for (std::int64_t r = 0; r < part.rows; ++r)
      for (std::int64_t c = 0; c < part.columns; ++c)
        out[r * part.columns + c] = static_cast<float>(
            upcycle_.router_std * rng::normal(seed_, key, element(row, (part.row + r) / G, part.column + c)));
  }

  void add_noise(const ParamRow& row, const Rectangle& part, float* out) const {
    const std::uint64_t key = rng::key_of(row.name + ".noise");
    for (std::int64_t r = 0; r < part.rows; ++r)
      for (std::int64_t c = 0; c < part.columns; ++c)
        out[r * part.columns + c] += static_cast<float>(
            upcycle_.noise_std * rng::normal(seed_, key, element(row, part.row + r, part.column + c)));
  }

  void drop(const ParamRow& row, const Origin& origin, const Rectangle& part, float* out) {
    const MatrixStatistics s = statistics(origin.dense);
    const std::uint64_t key = rng::key_of(row.name + ".drop");
    const auto redraw = [&](std::int64_t r, std::int64_t c) {
      out[(r - part.row) * part.columns + c - part.column] =
          static_cast<float>(s.mean + s.std * rng::normal(seed_, key, element(row, r, c)));
    };
    for (const std::int64_t unit :
         dropped_units(seed_, row.layer, row.expert, moe_.expert_size(), upcycle_.drop_ratio)) {
      if (origin.down) {
        if (unit < part.column || unit >= part.column + part.columns) continue;
        for (std::int64_t r = part.row; r < part.row + part.rows; ++r) redraw(r, unit);
      } else {
        if (unit < part.row || unit >= part.row + part.rows) continue;
        for (std::int64_t c = part.column; c < part.column + part.columns; ++c) redraw(unit, c);
      }
    }
  }

  // Of a whole dense matrix, read in pieces of at most 16 MiB; once a matrix.
  MatrixStatistics statistics(const std::string& dense) {
    const auto known = statistics_.find(dense);
    if (known != statistics_.end()) return known->second;
    const bool down = dense.ends_with("down_proj.weight");
    const std::int64_t rows = down ? moe_.hidden_size : moe_.intermediate_size;
    const std::int64_t columns = down ? moe_.intermediate_size : moe_.hidden_size;
    const std::int64_t step = std::max<std::int64_t>(1, (std::int64_t{4} << 20) / columns);
    std::vector<float> buffer;
    StatisticsSum sum;
    for (std::int64_t r = 0; r < rows; r += step) {
      const Rectangle part{r, 0, std::min(step, rows - r), columns};
      buffer.resize(static_cast<std::size_t>(part.size()));
      dense_.read(dense, part, buffer.data());
      const auto bad = std::find_if(buffer.begin(), buffer.end(), [](float x) { return !(std::abs(x) < 0x1p16f); });
      if (bad != buffer.end())
        input_error("{}: {} holds a value of {}, expected weights; drop_ratio can not draw from such a matrix",
                    dense_.name(), dense, *bad);
      sum.add(buffer.data(), part.size());
    }
    return statistics_[dense] = sum.result();
  }

  TensorSource& dense_;
  ModelConfig moe_;
  UpcycleConfig upcycle_;
  std::uint64_t seed_;
  std::map<std::string, ParamRow> rows_;
  std::map<std::string, MatrixStatistics> statistics_;
};

}  // namespace

std::string retained_tensor(const ParamRow& row) {
  if (row.expert >= 0 || is_router(row)) return "";
  const std::string shared = "block_sparse_moe.shared_expert.";
  const auto at = row.name.find(shared);
  return at == std::string::npos ? row.name : row.name.substr(0, at) + "mlp." + row.name.substr(at + shared.size());
}

std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed) {
  return std::make_unique<UpcycledSource>(dense, moe, upcycle, seed);
}

}  // namespace upcycle
