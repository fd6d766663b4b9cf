#include "parallel/train/batch_documents.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {

BatchDocuments::BatchDocuments(Device& device, const DocumentRules& rules, const PassShape& pass,
                               std::int64_t microbatches)
    : rules_(rules), S_(pass.S), T_(pass.T()), documents_(static_cast<std::size_t>(microbatches)) {
  UPCYCLE_CHECK(pass.documents == rules.reset_attention_mask, "a batch laid out {} documents",
                pass.documents ? "for" : "without");
  if (rules.reset_position_ids)
    positions_ = HostArray<std::int32_t>(device, static_cast<std::size_t>(microbatches * T_));
  if (rules.reset_attention_mask)
    offsets_ = HostArray<std::int32_t>(device, static_cast<std::size_t>(microbatches * (T_ + 1)));
}

void BatchDocuments::find(std::int64_t microbatch, std::span<const std::int32_t> tokens) {
  if (!rules_.reset_attention_mask && !rules_.reset_position_ids) return;
  std::int32_t* const positions = positions_.data() + microbatch * T_;
  std::int32_t* const offsets = offsets_.data() + microbatch * (T_ + 1);
  Documents& d = documents_[static_cast<std::size_t>(microbatch)];
  d = {};
  std::int32_t begin = 0;
  for (std::int64_t i = 0; i < T_; ++i) {
    const auto row = static_cast<std::int32_t>(i);
    if (i % S_ == 0 || tokens[static_cast<std::size_t>(i - 1)] == rules_.eod) {
      d.longest = std::max<std::int64_t>(d.longest, row - begin);
      begin = row;
      if (rules_.reset_attention_mask) offsets[d.count] = row;
      ++d.count;
    }
    if (rules_.reset_position_ids) positions[i] = row - begin;
  }
  d.longest = std::max(d.longest, T_ - begin);
  if (rules_.reset_attention_mask) offsets[d.count] = static_cast<std::int32_t>(T_);
}

void BatchDocuments::put(Device& device, Stream& stream, Batch& batch, std::int64_t microbatch) const {
  if (rules_.reset_position_ids)
    device.copy_from_host(stream, batch.positions.data, positions_.data() + microbatch * T_, batch.positions.bytes());
  if (!rules_.reset_attention_mask) return;
  const Documents& d = documents_[static_cast<std::size_t>(microbatch)];
  batch.sequences = {batch.offsets.slice_rows(0, d.count + 1), d.count, d.longest};
  device.copy_from_host(stream, batch.offsets.data, offsets_.data() + microbatch * (T_ + 1),
                        batch.sequences.offsets.bytes());
}

}  // namespace upcycle
