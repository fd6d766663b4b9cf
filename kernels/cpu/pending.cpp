#include "kernels/cpu/cpu_ops.h"

// Scaffolding while the ops are being written: whoever adds an op deletes its line here. The file goes when it is empty.
namespace upcycle {
namespace {
[[noreturn]] void pending(const char* op) { throw Error(std::string("op not written yet: ") + op); }
}  // namespace
struct CpuOps::MatmulCache {};
CpuOps::CpuOps() = default;
CpuOps::~CpuOps() = default;
void CpuOps::prepare(const OpLimits&) { pending("prepare"); }
std::size_t matmul_workspace(const OpLimits&) { return 0; }
std::size_t linear_xent_workspace(const OpLimits&) { return 0; }
std::size_t attention_workspace(const OpLimits&) { return 0; }
std::size_t rms_norm_workspace(const OpLimits&) { return 0; }
std::size_t embedding_workspace(const OpLimits&) { return 0; }
std::size_t sort_workspace(const OpLimits&) { return 0; }
std::size_t sum_squares_workspace(const OpLimits&) { return 0; }
void CpuOps::matmul(Stream&, Workspace, MatmulKind, const Tensor&, const Tensor&, const Tensor&, Store) { pending("matmul"); }
void CpuOps::grouped_matmul(Stream&, Workspace, MatmulKind, const Tensor&, const Tensor&, const Tensor&, std::span<const std::int64_t>, Store) { pending("grouped_matmul"); }
void CpuOps::embedding_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { pending("embedding_forward"); }
void CpuOps::embedding_backward(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { pending("embedding_backward"); }
void CpuOps::rms_norm_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float) { pending("rms_norm_forward"); }
void CpuOps::rms_norm_backward(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { pending("rms_norm_backward"); }
void CpuOps::rope(Stream&, const Tensor&, std::int64_t, const Tensor&, const Tensor&, bool) { pending("rope"); }
void CpuOps::attention_forward(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, const PackedSequences&, const PackedSequences&) { pending("attention_forward"); }
void CpuOps::attention_backward(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, const PackedSequences&, const PackedSequences&) { pending("attention_backward"); }
void CpuOps::swiglu_forward(Stream&, const Tensor&, const Tensor&) { pending("swiglu_forward"); }
void CpuOps::swiglu_backward(Stream&, const Tensor&, const Tensor&, const Tensor&) { pending("swiglu_backward"); }
void CpuOps::linear_xent_stats(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, std::int64_t) { pending("linear_xent_stats"); }
void CpuOps::xent_combine(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { pending("xent_combine"); }
void CpuOps::linear_xent_backward(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, std::int64_t, float) { pending("linear_xent_backward"); }
void CpuOps::router_forward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, RouterSoftmax) { pending("router_forward"); }
void CpuOps::router_weights(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, RouterSoftmax) { pending("router_weights"); }
void CpuOps::router_stats(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { pending("router_stats"); }
void CpuOps::router_backward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float, RouterSoftmax) { pending("router_backward"); }
void CpuOps::sort_by_expert(Stream&, Workspace, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { pending("sort_by_expert"); }
void CpuOps::gather_rows(Stream&, const Tensor&, const Tensor&, const Tensor&) { pending("gather_rows"); }
void CpuOps::combine_rows(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Store) { pending("combine_rows"); }
void CpuOps::combine_rows_backward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { pending("combine_rows_backward"); }
void CpuOps::fill(Stream&, const Tensor&, float) { pending("fill"); }
void CpuOps::convert(Stream&, const Tensor&, const Tensor&) { pending("convert"); }
void CpuOps::add(Stream&, const Tensor&, const Tensor&, const Tensor&) { pending("add"); }
void CpuOps::sum_squares(Stream&, Workspace, const Tensor&, const Tensor&) { pending("sum_squares"); }
void CpuOps::clip_scale(Stream&, const Tensor&, const Tensor&, float) { pending("clip_scale"); }
void CpuOps::adamw(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamwStep&) { pending("adamw"); }
void CpuOps::sgd(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float, float) { pending("sgd"); }
}  // namespace upcycle
