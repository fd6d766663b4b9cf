#include "parallel/upcycle/live.h"

#include <algorithm>

#include "parallel/train/state.h"
#include "parallel/upcycle/upcycled_source.h"

namespace upcycle {
namespace {

// One fp32 value of every parameter of a live dense trainer, whole on each rank of dp: the owners' shards are put into
// the gradient buffer, which is idle between steps, and gathered there.
class LiveSource final : public TensorSource {
 public:
  explicit LiveSource(Trainer& t) : t_(t), name_("the running model") {}

  void gather(StateKind kind) {
    const FlatGroup& flat = t_.model->table.dense;
    const Tensor& all = t_.memory.grads.dense;
    for (const OwnedPiece& p : owned_pieces(t_.model->table, t_.mesh->at, true)) {
      const Tensor from = kind == StateKind::Master    ? master_piece(t_.memory, p)
                          : kind == StateKind::Moment1 ? shard_piece_of(t_.memory.m, p)
                                                       : shard_piece_of(t_.memory.v, p);
      t_.ops->convert(*t_.stream, piece_of(t_.memory.grads, p), from);
    }
    for (const Bucket& b : flat.buckets)
      t_.stream->wait(t_.mesh->dp->all_gather(all.slice_rows(b.begin, b.end),
                                              all.slice_rows(flat.owned_begin(b), flat.owned_end(b))));
    t_.stream->synchronize();
  }

  const std::string& name() const override { return name_; }
  const ModelConfig& model() const override { return t_.config.model; }
  bool has(const std::string& tensor) const override { return t_.model->table.find(tensor) != nullptr; }

  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    const ParamRow* row = t_.model->table.find(tensor);
    UPCYCLE_CHECK(row != nullptr, "no tensor {} in the running model", tensor);
    const Tensor all = view_row(*row, t_.memory.grads.dense, t_.memory.grads.expert);
    for (std::int64_t r = 0; r < part.rows; ++r) {
      const Tensor line = all.slice_rows(part.row - row->part.row + r, part.row - row->part.row + r + 1);
      const std::int64_t column = part.column - row->part.column;
      const Tensor piece = line.slice_columns(column, column + part.columns);
      t_.device->copy_to_host(*t_.stream, out + r * part.columns, piece.data, piece.bytes());
    }
    t_.stream->synchronize();
  }

 private:
  Trainer& t_;
  std::string name_;
};

// Moments of the parameters that stay.
void carry_moments(Trainer& to, LiveSource& source, StateKind kind, FlatPair& shards) {
  source.gather(kind);
  std::vector<float> buffer;
  for (const OwnedPiece& p : owned_pieces(to.model->table, to.mesh->at, true)) {
    const std::string retained = retained_tensor(*p.row);
    if (retained.empty()) continue;
    buffer.resize(static_cast<std::size_t>(p.part.size()));
    source.read(retained, p.part, buffer.data());
    to.device->copy_from_host(*to.stream, shard_piece_of(shards, p).data, buffer.data(), buffer.size() * sizeof(float));
    to.stream->synchronize();  // the buffer is used again
  }
}

}  // namespace

LiveUpcycle upcycle_live(Trainer dense, const Config& config, std::span<const std::int32_t> probe) {
  if (dense.mesh->layout.tp > 1)
    input_error(
        "upcycle.at_step with parallel.tp = {}: live conversion over tp is not built yet; use parallel.tp=1, or "
        "save and start again with init.upcycle",
        dense.mesh->layout.tp);
  const std::vector<float> before = probe_logits(dense, dense.config.model, dense.memory.weights, probe);
  LiveUpcycle result{make_trainer(config, *dense.mesh, *dense.device, *dense.stream, *dense.ops), {}};
  Trainer& moe = result.trainer;

  LiveSource source(dense);
  source.gather(StateKind::Master);
  const auto upcycled =
      make_upcycled_source(source, config.model, config.upcycle, static_cast<std::uint64_t>(config.seed));
  load_trainer_weights(moe, *upcycled);
  if (config.train.optimizer == "adamw") {
    carry_moments(moe, source, StateKind::Moment1, moe.memory.m);
    carry_moments(moe, source, StateKind::Moment2, moe.memory.v);
  }
  for (std::size_t i = 0; i < moe.model->table.rows.size(); ++i) {
    const ParamRow* old = dense.model->table.find(retained_tensor(moe.model->table.rows[i]));
    if (old != nullptr)
      moe.optimizer.row_steps[i] =
          dense.optimizer.row_steps[static_cast<std::size_t>(old - dense.model->table.rows.data())];
  }
  moe.step = dense.step;
  moe.consumed_samples = dense.consumed_samples;
  moe.tokens = dense.tokens;
  moe.flops = dense.flops;
  moe.wall_seconds = dense.wall_seconds;

  const std::vector<float> after = probe_logits(moe, config.model, moe.memory.weights, probe);
  result.report = judge_change(moe, relative_change(before, after, *moe.mesh->tp));
  return result;
}

}  // namespace upcycle
