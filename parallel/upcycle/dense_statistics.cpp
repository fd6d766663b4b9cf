#include "parallel/upcycle/dense_statistics.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/staging.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/sum_over_ranks.h"
#include "parallel/train/owned_state.h"

namespace upcycle {
namespace {

constexpr std::int64_t kBuffer = std::int64_t{4} << 20;  // elements: 16 MiB

// This rank's share of one matrix: rows cut evenly over the ranks, read in bounded pieces.
void add_share(StatisticsSum& sum, TensorSource& dense, const DenseMatrix& m, int rank, int size) {
  const std::int64_t begin = m.rows * rank / size, end = m.rows * (rank + 1) / size;
  const std::int64_t step = std::clamp<std::int64_t>(kBuffer / m.columns, 1, m.rows);
  std::vector<float> buffer(static_cast<std::size_t>(std::min(step, end - begin) * m.columns));
  for (std::int64_t r = begin; r < end; r += step) {
    const Rectangle part{r, 0, std::min(step, end - r), m.columns};
    dense.read(m.name, part, buffer.data());
    const float* const last = buffer.data() + part.size();
    const float* const bad =
        std::find_if(static_cast<const float*>(buffer.data()), last, [](float x) { return !(std::abs(x) < 0x1p16f); });
    if (bad != last)
      input_error("{}: {} holds a value of {}, expected weights; drop_ratio can not draw from such a matrix",
                  dense.name(), m.name, *bad);
    sum.add(buffer.data(), part.size());
  }
}

DenseStatistics results(const std::vector<DenseMatrix>& matrices, const std::vector<StatisticsSum>& sums) {
  DenseStatistics all;
  for (std::size_t i = 0; i < matrices.size(); ++i) all[matrices[i].name] = sums[i].result();
  return all;
}

// sums[i] becomes the sum over ranks, exactly.
void sum_over_ranks(std::vector<StatisticsSum>& sums, Communicator& world, Device& device, Stream& stream) {
  std::vector<double> limbs;
  for (const StatisticsSum& s : sums) {
    const auto mine = s.limbs();
    limbs.insert(limbs.end(), mine.begin(), mine.end());
  }
  sum_over_ranks(limbs, world, device, stream);
  for (std::size_t i = 0; i < sums.size(); ++i)
    sums[i] = StatisticsSum::from_limbs(limbs.data() + i * StatisticsSum::kLimbs);
}

}  // namespace

std::int64_t statistics_bytes(const ModelConfig& moe) {
  return static_cast<std::int64_t>(expert_origins(moe).size() * StatisticsSum::kLimbs * sizeof(double));
}

DenseStatistics file_statistics(TensorSource& dense, const ModelConfig& moe) {
  const std::vector<DenseMatrix> matrices = expert_origins(moe);
  std::vector<StatisticsSum> sums(matrices.size());
  for (std::size_t i = 0; i < matrices.size(); ++i) add_share(sums[i], dense, matrices[i], 0, 1);
  return results(matrices, sums);
}

DenseStatistics file_statistics(TensorSource& dense, const ModelConfig& moe, Communicator& world, Device& device,
                                Stream& stream) {
  const std::vector<DenseMatrix> matrices = expert_origins(moe);
  std::vector<StatisticsSum> sums(matrices.size());
  agree_or_throw(world, [&] {
    for (std::size_t i = 0; i < matrices.size(); ++i)
      add_share(sums[i], dense, matrices[i], world.rank(), world.size());
  });
  sum_over_ranks(sums, world, device, stream);
  return results(matrices, sums);
}

DenseStatistics live_statistics(const Trainer& dense, const ModelConfig& moe) {
  const std::vector<DenseMatrix> matrices = expert_origins(moe);
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < matrices.size(); ++i) place[matrices[i].name] = i;
  std::vector<StatisticsSum> sums(matrices.size());
  Staging staging = state_staging(dense.memory, *dense.device, *dense.stream);
  std::vector<float> values(std::size_t{1} << 18);
  for (const OwnedPiece& p : owned_pieces(dense.table(), dense.mesh->at, false)) {
    const auto at = place.find(p.row->name);
    if (at == place.end()) continue;
    for (std::int64_t begin = 0; begin < p.part.size(); begin += static_cast<std::int64_t>(values.size())) {
      const std::int64_t n = std::min(static_cast<std::int64_t>(values.size()), p.part.size() - begin);
      read_state(staging, dense.memory, StateKind::Master, p, {begin, 1, n, n}, values.data());
      sums[at->second].add(values.data(), n);
    }
  }
  sum_over_ranks(sums, *dense.mesh->world, *dense.device, *dense.stream);
  return results(matrices, sums);
}

}  // namespace upcycle
