#include <cmath>

#include "tests/kernels/op_fixture.h"

// The three kinds of product belong together: with L = <dY, X W^T> (NT), dX = dY W (NN) and dW = dY^T X (TN) are its
// derivatives. L is linear in each operand, so a central difference with a large step is exact but for rounding.
namespace upcycle {
namespace {

struct ProductGradient : OpTest {
  const std::vector<std::int64_t> offsets{0, 16, 16, 48};  // three experts, one of them empty
  Workspace scratch() {
    OpLimits limits;
    limits.T = limits.H = limits.F = limits.moe_F = limits.R = 64;
    limits.E = 3;
    bytes_.resize(ops->workspace_bytes(limits));
    return {bytes_.data(), bytes_.size()};
  }
  void product(MatmulKind kind, bool grouped, const Tensor& c, const Tensor& a, const Tensor& b) {
    if (grouped) {
      ops->grouped_matmul(*stream, scratch(), kind, c, a, b, offsets);
    } else {
      ops->matmul(*stream, scratch(), kind, c, a, b);
    }
  }
  double loss(bool grouped, const HostTensor& x, const HostTensor& w, const HostTensor& dy) {
    HostTensor y(DType::F32, {dy.shape[0], dy.shape[1]});
    product(MatmulKind::NT, grouped, y, x, w);
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) sum += y.get(i) * dy.get(i);
    return sum;
  }
  void check(bool grouped, std::int64_t E) {
    const std::int64_t R = 48, in = 23, out = 11;
    HostTensor x = random_tensor(DType::F32, {R, in}, "x"), dy = random_tensor(DType::F32, {R, out}, "dy");
    HostTensor w = grouped ? random_tensor(DType::F32, {E, out, in}, "w") : random_tensor(DType::F32, {out, in}, "w");
    HostTensor dx(DType::F32, {R, in});
    HostTensor dw = grouped ? HostTensor(DType::F32, {E, out, in}) : HostTensor(DType::F32, {out, in});
    product(MatmulKind::NN, grouped, dx, dy, w);
    product(MatmulKind::TN, grouped, dw, dy, x);
    const auto differences = [&](HostTensor& operand, const HostTensor& gradient) {
      for (std::int64_t i = 0; i < operand.size(); i += 7) {
        const double was = operand.get(i);
        set(operand, i, was + 0.5);
        const double up = loss(grouped, x, w, dy);
        set(operand, i, was - 0.5);
        const double down = loss(grouped, x, w, dy);
        set(operand, i, was);
        ASSERT_NEAR(gradient.get(i), up - down, 2e-4 * (1 + std::abs(up))) << i;
      }
    };
    differences(x, dx);
    differences(w, dw);
  }

 private:
  testing::Bytes bytes_;
};

TEST_F(ProductGradient, MatmulsAreEachOthersDerivatives) { check(false, 1); }
TEST_F(ProductGradient, GroupedMatmulsAreEachOthersDerivatives) { check(true, 3); }

}  // namespace
}  // namespace upcycle
