#include "parallel/train/evaluate.h"

#include <algorithm>

#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/batch_documents.h"

namespace upcycle {

EvalResult evaluate(Transformer& m, const Batch& laid_out, const EvalWindows& windows, std::int64_t most_windows,
                    const WindowSeen& seen) {
  Batch batch = laid_out;
  const std::int64_t B = m.pass.B, S = m.pass.S, dp = m.mesh->layout.dp;
  const std::int64_t count = most_windows > 0 ? std::min(most_windows, windows.count()) : windows.count();
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(m.T())), targets(tokens.size());
  std::vector<float> nll(seen ? tokens.size() : 0);
  BatchDocuments documents(*m.device, windows.rules(), m.pass, 1);
  std::int64_t predicted = 0;
  m.ops->fill(*m.stream, m.activations.loss_sum, 0);
  // Every rank makes the same number of passes, the last perhaps without tokens: reaching other ranks' experts is
  // collective.
  for (std::int64_t begin = 0; begin < count; begin += dp * B) {
    const std::int64_t first = begin + m.mesh->at.dp * B;
    std::fill(tokens.begin(), tokens.end(), 0);
    std::fill(targets.begin(), targets.end(), -1);
    const std::int64_t n = std::min(B, count - first);
    for (std::int64_t i = 0; i < n; ++i)
      predicted += windows.fill(first + i, tokens.data() + i * S, targets.data() + i * S);
    m.device->copy_from_host(*m.stream, batch.tokens.data, tokens.data(), batch.tokens.bytes());
    m.device->copy_from_host(*m.stream, batch.targets.data, targets.data(), batch.targets.bytes());
    documents.find(0, tokens);
    documents.put(*m.device, *m.stream, batch, 0);
    forward(m, batch, 0);
    if (seen) m.device->copy_to_host(*m.stream, nll.data(), m.activations.head.nll.data, nll.size() * sizeof(float));
    m.stream->synchronize();  // the host buffers are about to be refilled
    for (std::int64_t i = 0; seen && i < n; ++i) {
      const auto at = static_cast<std::size_t>(i * S), size = static_cast<std::size_t>(S);
      seen(first + i, std::span(targets).subspan(at, size), std::span(nll).subspan(at, size));
    }
  }
  double loss_sum = 0;
  m.device->copy_to_host(*m.stream, &loss_sum, m.activations.loss_sum.data, sizeof loss_sum);
  m.stream->synchronize();
  EvalResult result;
  result.tokens = static_cast<std::int64_t>(m.mesh->dp->sum_of(static_cast<double>(predicted)));
  const double total = m.mesh->dp->sum_of(loss_sum);
  result.loss = result.tokens > 0 ? total / static_cast<double>(result.tokens) : 0;
  return result;
}

}  // namespace upcycle
