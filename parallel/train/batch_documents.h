#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/host_array.h"
#include "data/documents.h"
#include "parallel/model/batch.h"

namespace upcycle {

// Where the documents of each microbatch lie, for the rules that part them in the model (data.reset_attention_mask,
// data.reset_position_ids): found from the tokens on the host, and put in the batch on the device before its pass.
// Without these rules it holds nothing, and the batch keeps its shape.
class BatchDocuments {
 public:
  BatchDocuments() = default;
  // `pass.documents` as the batch was laid out. The device must outlive this.
  BatchDocuments(Device& device, const DocumentRules& rules, const PassShape& pass, std::int64_t microbatches);

  void find(std::int64_t microbatch, std::span<const std::int32_t> tokens);  // (T)
  // Issues the copies; what find wrote must stay until they are done.
  void put(Device& device, Stream& stream, Batch& batch, std::int64_t microbatch) const;

 private:
  DocumentRules rules_;
  std::int64_t S_ = 0, T_ = 0;
  HostArray<std::int32_t> positions_;  // (microbatches, T)
  HostArray<std::int32_t> offsets_;    // (microbatches, T + 1)
  struct Documents {
    std::int64_t count = 0, longest = 0;
  };
  std::vector<Documents> documents_;  // of each microbatch
};

}  // namespace upcycle
