#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/gemm_shape.h"

namespace upcycle {

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

}  // namespace upcycle
