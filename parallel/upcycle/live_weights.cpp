#include "parallel/upcycle/live_weights.h"

#include <algorithm>
#include <map>

#include "core/check.h"
#include "kernels/ops.h"
#include "parallel/checkpoint/load.h"
#include "parallel/model/rectangles.h"
#include "parallel/model/weights.h"
#include "parallel/train/trainer_state.h"
#include "parallel/train/update.h"
#include "parallel/upcycle/idle_memory.h"
#include "parallel/upcycle/live_plan.h"
#include "parallel/upcycle/load_upcycled.h"

namespace upcycle {
namespace {

constexpr std::size_t kBuffer = std::size_t{16} << 20;

// The dense working weights of one layer's MLP, in the slices that lie on this rank.
class WorkingWeights final : public TensorSource {
 public:
  WorkingWeights(const Trainer& dense, Staging& staging) : model_(dense.config.model), staging_(staging) {}

  struct Slice {
    Rectangle part;
    Tensor values;
  };
  std::map<std::string, std::vector<Slice>> slices;

  const std::string& name() const override { return name_; }
  const ModelConfig& model() const override { return model_; }
  bool has(const std::string& tensor) const override { return slices.count(tensor) != 0; }

  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    std::int64_t found = 0;
    for (const Slice& s : slices.at(tensor)) {
      const Rectangle common = intersection(s.part, part);
      if (common.size() == 0) continue;
      const Tensor rows =
          s.values.reshaped({s.part.rows, s.part.columns})
              .slice_rows(common.row - s.part.row, common.row - s.part.row + common.rows)
              .slice_columns(common.column - s.part.column, common.column - s.part.column + common.columns);
      values_.resize(static_cast<std::size_t>(common.size()));
      read_floats(staging_, rows, values_.data());
      for (std::int64_t r = 0; r < common.rows; ++r)
        std::copy_n(values_.data() + r * common.columns, common.columns,
                    out + (common.row - part.row + r) * part.columns + common.column - part.column);
      found += common.size();
    }
    UPCYCLE_CHECK(found == part.size(), "{}: {} of {} elements lie here", tensor, found, part.size());
  }

 private:
  std::string name_ = "the running model";
  ModelConfig model_;
  Staging& staging_;
  std::vector<float> values_;
};

// A layer's whole MLP from the tp group, into (tp, end - begin).
void gather_layer(const Trainer& dense, const MlpRange& range, const Tensor& whole) {
  dense.stream->wait(dense.mesh->tp->all_gather(whole, dense.memory.weights.dense.slice_rows(range.begin, range.end)));
}

}  // namespace

void copy_retained(const Trainer& dense, Trainer& moe) {
  for (const ParamRow& row : moe.table().rows) {
    const ParamRow* was = dense.table().find(retained_tensor(row));
    if (was == nullptr) continue;
    UPCYCLE_CHECK(was->part == row.part, "{}: another slice than {}", row.name, was->name);
    const Tensor to = view_row(row, moe.memory.weights.dense, moe.memory.weights.expert);
    moe.device->copy(*moe.stream, CopyKind::OnDevice, to.data,
                     view_row(*was, dense.memory.weights.dense, dense.memory.weights.expert).data, to.bytes());
  }
}

void draw_routers(const ExpertMaker& maker, Trainer& moe) {
  Staging staging(*moe.device, *moe.stream);
  const StoreRows store = store_trainer_rows(moe, staging);
  std::vector<float> values;
  for (const ParamRow& row : moe.table().rows) {
    if (row.expert >= 0 || !maker.origin(row, row.part).tensor.empty()) continue;
    values.resize(static_cast<std::size_t>(row.part.size()));
    maker.make(row, row.part, values.data());
    store(row, row.part, values.data());
  }
}

void make_local_experts(const Trainer& dense, const ExpertMaker& maker, Trainer& moe) {
  const Mesh& mesh = *moe.mesh;
  const bool local = experts_are_local(dense.config.model, maker, mesh.layout, mesh.rank);
  const std::vector<MlpRange> ranges = mlp_ranges(dense.table(), maker.model());
  const DType dtype = moe.config.storage();

  // Every slice of the tp group, or only this rank's.
  std::vector<ParamTable> tables;
  for (int tp = 0; !local && tp < mesh.layout.tp; ++tp)
    tables.push_back(
        make_param_table(dense.config.model, mesh.layout, coordinates_of(mesh.layout, mesh.rank - mesh.at.tp + tp)));
  Arena own("dense MLP of a layer");
  Tensor buffer;
  if (!local) {
    std::int64_t most = 0;
    for (const MlpRange& range : ranges) most = std::max(most, mesh.layout.tp * (range.end - range.begin));
    IdleMemory idle = idle_gradients(moe);
    buffer = take_idle(idle, own, *moe.device, dtype, most);
  }

  Staging staging(*moe.device, *moe.stream);
  WorkingWeights source(dense, staging);
  for (const MlpRange& range : ranges) {
    const std::int64_t size = range.end - range.begin;
    if (!local) gather_layer(dense, range, buffer.slice_rows(0, mesh.layout.tp * size));
    source.slices.clear();
    for (const ParamRow& row : dense.table().rows) {
      if (row.offset < range.begin || row.offset >= range.end) continue;
      auto& slices = source.slices[row.name];
      if (local) slices.push_back({row.part, view_row(row, dense.memory.weights.dense, dense.memory.weights.expert)});
      for (std::size_t tp = 0; tp < tables.size(); ++tp) {
        const std::int64_t at = static_cast<std::int64_t>(tp) * size + row.offset - range.begin;
        slices.push_back({tables[tp].find(row.name)->part, buffer.slice_rows(at, at + row.size())});
      }
    }
    std::vector<const ParamRow*> experts;
    for (const ParamRow& row : moe.table().rows)
      if (row.expert >= 0 && row.layer == range.layer) experts.push_back(&row);
    load_upcycled(experts, source, maker, kBuffer,
                  [&](const ParamRow& row, const Rectangle& part, const float* values) {
                    store_rows(row, part, values, staging, moe.memory.weights.dense, moe.memory.weights.expert);
                  });
  }
}

void gather_experts(Trainer& moe) {
  if (!moe.memory.form.split_masters) {  // they hold their rounding
    Staging staging(*moe.device, *moe.stream);
    for (const OwnedPiece& p : owned_pieces(moe.table(), moe.mesh->at, true)) {
      if (p.row->group != ParamGroup::Expert) continue;
      const Tensor weights = piece_of(moe.memory.weights, p), master = master_piece(moe.memory, p);
      if (moe.memory.host_state.allocated())
        write_floats(staging, weights, master.as<float>());
      else
        moe.ops->convert(*moe.stream, weights, master);
    }
  }
  gather_parameters(moe.optimizer, moe.memory, ParamGroup::Expert);
}

}  // namespace upcycle
