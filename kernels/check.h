#pragma once
#include <initializer_list>

#include "core/tensor.h"
#include "kernels/op_types.h"

// Building blocks of the ops' argument checks: every message names the op, the argument, what was found and what was
// expected. checks/ has the checks of each op, which all backends share.
namespace upcycle {

// `t` has this type and shape, dense rows, and memory unless it is empty. `scope` is "op: argument".
void check_tensor(const char* scope, const Tensor& t, DType dtype, std::initializer_list<std::int64_t> shape);
// The same for a (rows, columns) tensor of fp32 or bf16 whose rows may be strided.
void check_rows(const char* scope, const Tensor& t, std::int64_t rows, std::int64_t columns);
// `size` dense elements of this type, in any shape.
void check_flat(const char* scope, const Tensor& t, DType dtype, std::int64_t size);
void check_same_type(const char* op, const Tensor& a, const Tensor& b);
void check_workspace(const char* op, const Workspace& workspace, std::size_t needed);
// All `count` indices, in host memory, are in [lowest, end). Checked before the parallel loop that uses them, because
// nothing may throw inside it and an index past the end would write into another tensor.
void check_indices(const char* scope, const std::int32_t* indices, std::int64_t count, std::int64_t lowest,
                   std::int64_t end);

}  // namespace upcycle
