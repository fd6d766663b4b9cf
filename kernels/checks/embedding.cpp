#include "kernels/checks/embedding.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

EmbeddingSizes check_arguments(const char* op, const Tensor& table, const Tensor& activations, const Tensor& tokens) {
  UPCYCLE_CHECK(table.rank == 2 && table.contiguous(), "{}: the table is {}, expected dense (V, H)", op,
                table.describe());
  check_rows(op, activations, activations.rows(), table.columns());
  check_tensor(op, tokens, DType::I32, {activations.rows()});
  return {activations.rows(), table.rows(), table.columns()};
}

}  // namespace

EmbeddingSizes check_embedding_forward(const Tensor& out, const Tensor& table, const Tensor& tokens) {
  const EmbeddingSizes z = check_arguments("embedding_forward", table, out, tokens);
  UPCYCLE_CHECK(table.dtype == out.dtype, "embedding_forward: table {} and out {} differ in type", table.describe(),
                out.describe());
  return z;
}

EmbeddingSizes check_embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& tokens) {
  const EmbeddingSizes z = check_arguments("embedding_backward", dtable, dout, tokens);
  check_tensor("embedding_backward: dtable", dtable, DType::F32, {z.V, z.H});
  return z;
}

}  // namespace upcycle
