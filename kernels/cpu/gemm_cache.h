#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "kernels/cpu/cpu_ops.h"

namespace upcycle {

// One product C (m, n) (= or +=) A B of row-major matrices with row strides lda, ldb, ldc (elements); see MatmulKind.
struct GemmShape {
  MatmulKind kind = MatmulKind::NT;
  Store store = Store::Overwrite;
  DType ab = DType::F32, c = DType::F32;  // A and B have one type
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  bool operator==(const GemmShape&) const = default;
};

// oneDNN primitives by shape and thread count: made on first use (about 0.5 ms each), then kept. One thread at a time,
// outside parallel regions: oneDNN fixes a primitive's split into threads when it is made.
class GemmCache {
 public:
  // A product that oneDNN would give more scratch than the limit is cut into blocks of C's rows.
  explicit GemmCache(std::size_t scratch_limit = workspace_bytes());
  ~GemmCache();
  GemmCache(const GemmCache&) = delete;
  GemmCache& operator=(const GemmCache&) = delete;

  void prepare(const GemmShape& shape);
  // Sizes may be zero. Throws Error when oneDNN has no such product on this processor or `workspace` is too small.
  void run(Workspace workspace, const GemmShape& shape, void* c, const void* a, const void* b);

  static std::size_t workspace_bytes();               // what run needs, for any shape under the default limit
  std::size_t size() const { return plans_.size(); }  // shapes made so far
  std::size_t blocks(const GemmShape& shape);         // that this shape is cut into

 private:
  struct Engine;
  struct Plan;
  struct Key {
    GemmShape shape;
    int threads;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  Plan& plan(const GemmShape& shape);

  std::size_t scratch_limit_;
  std::unique_ptr<Engine> engine_;
  std::unordered_map<Key, std::unique_ptr<Plan>, Hash> plans_;
};

struct CpuOps::MatmulCache {
  GemmCache gemms;
};

// Throws Error unless A and B have one type, fp32 or bf16, and C is fp32 or, to be overwritten, of their type.
void check_product_types(const Tensor& c, const Tensor& a, const Tensor& b, Store store);

// The elements from one row to the next as GemmShape wants it: one row alone has no stride of its own.
inline std::int64_t leading_dimension(const Tensor& t) { return t.rows() > 1 ? t.row_stride : t.columns(); }

}  // namespace upcycle
