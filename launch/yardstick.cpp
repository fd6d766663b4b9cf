#include "launch/yardstick.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "core/arena.h"
#include "kernels/ops.h"
#include "launch/normal_operands.h"

namespace upcycle {
namespace {

// On shared cores some products run beside other work: measure until several in a row bring no improvement.
constexpr int kFruitless = 8, kMostRounds = 48;
constexpr double kImprovement = 0.98;  // times below this share of the best count

// Seconds of one (n, n) x (n, n) product: the best of several measurements, each the mean of `together` products issued
// at once.
double product_seconds(const Backend& b, DType dtype, std::int64_t n, int together) {
  OpLimits limits;
  limits.T = limits.H = limits.F = n;
  limits.dtype = dtype;
  Arena arena("peak measurement");
  Tensor x, w, y, scratch;
  const auto layout = [&] {
    x = arena.take(dtype, {n, n});
    w = arena.take(dtype, {n, n});
    y = arena.take(dtype, {n, n});
    scratch = arena.take(DType::F32, {static_cast<std::int64_t>(b.ops->workspace_bytes(limits) / 4 + 1)});
  };
  layout();
  arena.allocate(*b.device);
  layout();
  {
    NormalOperands normal;
    Staging staging(*b.device, *b.stream);
    normal.write(staging, x);
    normal.write(staging, w);
  }
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0, fruitless = 0; round < kMostRounds && fruitless < kFruitless; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < together; ++j)
      b.ops->matmul(*b.stream, {scratch.data, scratch.bytes()}, MatmulKind::NT, y, x, w);
    b.stream->synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / together;
    fruitless = seconds < kImprovement * best ? 0 : fruitless + 1;
    best = std::min(best, seconds);
  }
  return best;
}

}  // namespace

Yardstick::Yardstick(double measured, std::function<double()> again) : flops_(measured), again_(std::move(again)) {}

double Yardstick::mfu(double flops_per_s) {
  if (flops_per_s > flops_ && again_) flops_ = std::max(flops_, again_());
  flops_ = std::max(flops_, flops_per_s);
  return flops_per_s / flops_;
}

double measure_peak_flops(const Backend& backend, DType dtype) {
  const auto flops = [&](std::int64_t n, int together) {
    const auto side = static_cast<double>(n);
    return 2 * side * side * side / product_seconds(backend, dtype, n, together);
  };
  if (backend.gpu < 0) return flops(1024, 1);
  // GPUs differ by orders of magnitude, and the emulated one by more: grow until a product takes a millisecond.
  double best = 0;
  for (std::int64_t n = 256; n <= 8192; n *= 2) {
    best = std::max(best, flops(n, 4));
    const auto side = static_cast<double>(n);
    if (2 * side * side * side / best > 1e-3) break;
  }
  return best;
}

Yardstick make_yardstick(const Backend& backend, DType dtype, int ranks) {
  const auto measure = [&backend, dtype, ranks] { return ranks * measure_peak_flops(backend, dtype); };
  return backend.gpu < 0 ? Yardstick(measure(), measure) : Yardstick(measure());
}

}  // namespace upcycle
