#pragma once
#include <initializer_list>

#include "core/tensor.h"
#include "kernels/op_types.h"

// What the argument checks of the ops are made of: every message names the op, the argument, what was found and what
// was expected. checks/ has those of each op, which all backends share.
namespace upcycle {

// `t` has this type and shape, dense rows, and memory unless it is empty. `scope` is "op: argument".
void check_tensor(const char* scope, const Tensor& t, DType dtype, std::initializer_list<std::int64_t> shape);
// The same, of fp32 or bf16, with rows that may be strided.
void check_rows(const char* scope, const Tensor& t, std::int64_t rows, std::int64_t columns);
// `size` dense elements of this type, in any shape.
void check_flat(const char* scope, const Tensor& t, DType dtype, std::int64_t size);
void check_same_type(const char* op, const Tensor& a, const Tensor& b);
void check_workspace(const char* op, const Workspace& workspace, std::size_t needed);
// Every one of `count` indices, in host memory, lies in [lowest, end). Read before the parallel loop that follows them,
// because nothing may throw inside it and an index past the end would write into another tensor.
void check_indices(const char* scope, const std::int32_t* indices, std::int64_t count, std::int64_t lowest,
                   std::int64_t end);

}  // namespace upcycle
