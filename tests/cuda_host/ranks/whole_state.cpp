#include "tests/cuda_host/ranks/whole_state.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/check.h"
#include "parallel/model/transformer.h"

namespace upcycle::test {
namespace {

// A whole matrix whose elements each lie on one rank: their bits travel as sums, which are exact.
class Whole {
 public:
  explicit Whole(const ParamRow& row)
      : columns_(row.columns), bits_(static_cast<std::size_t>(row.rows * row.columns)), given_(bits_.size()) {}

  void put(const Rectangle& part, const std::vector<float>& values) {
    for (std::int64_t i = 0; i < part.size(); ++i) {
      const std::int64_t r = part.row + i / part.columns, c = part.column + i % part.columns;
      const auto at = static_cast<std::size_t>(r * columns_ + c);
      bits_[at] += std::bit_cast<std::uint32_t>(values[static_cast<std::size_t>(i)]);
      given_[at] += 1;
    }
  }

  std::vector<float> values(const std::string& name) {
    sum(bits_);
    sum(given_);
    std::vector<float> v(bits_.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      UPCYCLE_CHECK(given_[i] == 1, "{}: element {} is owned by {} ranks", name, i, given_[i]);
      v[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits_[i]));
    }
    return v;
  }

 private:
  static void sum(std::vector<double>& v) {
    wait(host_world().all_reduce(Tensor(v.data(), DType::F64, {static_cast<std::int64_t>(v.size())})));
  }
  std::int64_t columns_;
  std::vector<double> bits_, given_;
};

// `values`: of a piece.
template <class Values>
std::vector<float> whole_matrix(const Trainer& t, const ParamRow& row, const Values& values) {
  Whole whole(row);
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, false))
    if (p.row->name == row.name) whole.put(p.part, values(p));
  return whole.values(row.name);
}

}  // namespace

TrainedState whole_state(const Trainer& t) {
  TrainedState s;
  const int moments = t.config.train.moments();
  const ParamTable table = make_global_table(t.config.model);
  for (const ParamRow& row : table.rows) {
    TrainedState::Parameter& to = s.parameters[row.name];
    const auto collect = [&](StateKind kind) {
      return whole_matrix(t, row, [&](const OwnedPiece& p) { return owned_floats(t, kind, p); });
    };
    to.weight = whole_matrix(t, row, [&](const OwnedPiece& p) { return floats_of(t, piece_of(t.memory.weights, p)); });
    to.master = collect(StateKind::Master);
    if (moments > 0) to.m = collect(StateKind::Moment1);
    if (moments > 1) to.v = collect(StateKind::Moment2);
    const ParamRow* mine = t.table().find(row.name);
    const auto at = mine == nullptr ? 0 : static_cast<std::size_t>(mine - t.table().rows.data());
    to.steps = static_cast<std::int64_t>(
        host_world().max_of(mine == nullptr ? 0 : static_cast<double>(t.optimizer.row_steps[at])));
  }
  s.step = t.step;
  s.consumed_samples = t.consumed_samples;
  s.tokens = t.tokens;
  s.flops = t.flops;
  return s;
}

std::vector<std::vector<float>> whole_gradients(const Trainer& t) {
  std::vector<std::vector<float>> all;
  const ParamTable table = make_global_table(t.config.model);
  for (const ParamRow& row : table.rows)
    all.push_back(whole_matrix(
        t, row, [&](const OwnedPiece& p) { return floats_of(t, gradient_piece(t.table(), t.memory, p)); }));
  return all;
}

std::vector<float> owned_gradients(const Trainer& t) {
  std::vector<float> all;
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {
    const std::vector<float> g = floats_of(t, gradient_piece(t.table(), t.memory, p));
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}

void expect_near_masters(const TrainedState& a, const TrainedState& b, double relative, double absolute) {
  double all = 0;
  for (const auto& [name, p] : b.parameters) all += std::pow(norm(p.master), 2);
  for (const auto& [name, p] : b.parameters)
    EXPECT_LE(distance(a.parameters.at(name).master, p.master), relative * norm(p.master) + absolute * std::sqrt(all))
        << "masters of " << name;
}

}  // namespace upcycle::test
