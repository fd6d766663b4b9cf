#include "parallel/train/dump.h"

#include <unistd.h>

#include "core/error.h"
#include "core/staging.h"
#include "parallel/checkpoint/new_run.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/model/transformer.h"
#include "parallel/train/dump_files.h"
#include "parallel/train/reduction.h"

namespace upcycle {
namespace {

StoredType stored_type(DType t) {
  switch (t) {
    case DType::F32:
      return StoredType::F32;
    case DType::BF16:
      return StoredType::BF16;
    case DType::F64:
      return StoredType::F64;
    case DType::I32:
      return StoredType::I32;
    case DType::I64:
      return StoredType::I64;
  }
  throw Error("a tensor of no known type");
}

std::vector<char> bytes_of(Staging& staging, const Tensor& t) {
  std::vector<char> bytes;
  bytes.reserve(t.bytes());
  const std::size_t row = t.rank == 0 ? 0 : t.bytes() / static_cast<std::size_t>(t.rows());
  staging.read(t, [&](const void* host, std::int64_t, std::int64_t rows) {
    const char* from = static_cast<const char*>(host);
    bytes.insert(bytes.end(), from, from + static_cast<std::size_t>(rows) * row);
  });
  return bytes;
}

// Names what a pass makes, and keeps this rank's rows of it.
class Recorder : public Observer {
 public:
  Recorder(const Trainer& t, DumpWriter& writer, Staging& staging)
      : model_(*t.model),
        writer_(writer),
        staging_(staging),
        microbatches_(batch_of_step(t) / t.config.train.micro_batch_size),
        microbatch_(microbatches_ / t.mesh->layout.dp * t.mesh->at.dp - 1) {}

  void begin_microbatch() override { ++microbatch_, place_ = 0; }
  void activation(std::int64_t layer, const char* name, const Tensor& x) override { add(layer, name, "activation", x); }
  void gradient(std::int64_t layer, const char* name, const Tensor& dx) override {
    add(layer, name, "activation_gradient", dx);
  }
  std::int64_t microbatches() const { return microbatches_; }

 private:
  void add(std::int64_t layer, const char* name, const char* kind, const Tensor& x) {
    const std::pair order{microbatch_, place_++};
    const std::int64_t T = model_.T(), first = x.rows() == T ? 0 : model_.T_local() * model_.mesh->at.tp;
    if (x.rows() == T && model_.mesh->at.tp > 0) return;  // alike on all tp ranks
    const std::string of_layer = layer < 0 ? "" : fmt::format("layers.{}.", layer);
    const auto shape = x.rank == 1 ? std::vector{T} : std::vector{T, x.columns()};
    const Rectangle part = x.rank == 1 ? Rectangle{0, 0, 1, T} : Rectangle{first, 0, x.rows(), x.columns()};
    writer_.add(
        {fmt::format("microbatch.{}.{}{}", microbatch_, of_layer, name), kind, order, stored_type(x.dtype), shape},
        part, bytes_of(staging_, x));
  }

  Transformer& model_;
  DumpWriter& writer_;
  Staging& staging_;
  std::int64_t microbatches_, microbatch_, place_ = 0;
};

struct Observed {
  Transformer& model;
  Observed(Transformer& m, Observer& observer) : model(m) { model.observer = &observer; }
  ~Observed() { model.observer = nullptr; }
  Observed(const Observed&) = delete;
};

// Of the pieces that this rank owns: each logical element on one rank. In the backward's order, the last rows first. In
// fp32 whatever the sums are, so that dumps can be compared.
void add_gradients(Trainer& t, DumpWriter& writer, Staging& staging, std::int64_t microbatches) {
  const ParamTable global = make_global_table(t.config.model);
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, false)) {
    const auto place = static_cast<std::int64_t>(global.rows.size() - global.places.at(p.row->name));
    const auto shape = p.row->is_vector ? std::vector{p.row->columns} : std::vector{p.row->rows, p.row->columns};
    const Tensor values = fp32_gradient(t.optimizer, t.memory, p);
    writer.add(
        {"gradient." + p.row->name, "parameter_gradient", {microbatches, place}, stored_type(values.dtype), shape},
        p.part, bytes_of(staging, values));
  }
}

}  // namespace

void make_dump_folder(const std::string& dir) {
  try {
    require_free(dir);
    make_folder(dir);
    if (::access(dir.c_str(), W_OK | X_OK) != 0)
      input_error("{}: found a folder that can not be written, expected one that can; choose another name", dir);
  } catch (const InputError& e) {
    input_error("debug.dump: {}", e.what());
  }
}

void dump_step(Trainer& t, const SequenceSource& source, const std::string& dir) {
  DumpWriter writer(dir, t.mesh->rank, t.mesh->layout.world, t.step + 1);
  Staging staging(*t.device, *t.stream);
  Recorder recorder(t, writer, staging);
  {
    const Observed observed(*t.model, recorder);
    compute_gradients(t, source);
  }
  add_gradients(t, writer, staging, recorder.microbatches());
  writer.finish();
  t.mesh->world->barrier();  // after this every rank finds all of it
}

}  // namespace upcycle
