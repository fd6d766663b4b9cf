#pragma once
#include <memory>
#include <vector>

#include "core/arena.h"
#include "parallel/model/transformer.h"
#include "parallel/serve/scheduler.h"

namespace upcycle {

class Ops;

// What a step hands to the device, in two runs of i32 (some of them hold floats) that are each one copy. n: sequences,
// at most options.max_num_seqs.
struct StepTensors {
  Tensor rows;                                // i32: everything but `pages`
  Tensor pages;                               // i32 (max_num_seqs, pages of the longest sequence)
  Tensor tokens, positions, slots;            // i32 (T)
  Tensor offsets, lengths;                    // i32 (n + 1), (n): see PagedSequences
  Tensor logit_rows;                          // i32 (n): of T, from which a token is drawn
  Tensor temperature, top_k, top_p, uniform;  // (n): see SamplingRows
};

// What an engine has beside the weights, laid out for the most rows and sequences of a step.
struct EngineBuffers {
  std::vector<PagedCache> cache;       // of each layer, (pages, K_local, P, D)
  std::unique_ptr<Transformer> model;  // set_rows makes it a pass of a step's rows
  Activations whole;                   // its activations as laid out
  StepTensors step;
  Tensor hidden;              // (max_num_seqs, H): inputs of the head
  Tensor logits, all_logits;  // fp32 (max_num_seqs * V_local), (tp * max_num_seqs * V_local) (tp > 1)
  Tensor drawn, all_drawn;    // i32 (max_num_seqs + 2), (dp, max_num_seqs + 2): tokens, then two counts
};

// Rows of the largest step over tp ranks.
std::int64_t most_rows(const SchedulerOptions& options, int tp);

// Bytes of one page of the whole cache of this rank: keys and values of all layers.
std::size_t page_bytes(const ModelConfig& model, const Layout& layout, DType dtype, std::int64_t page_rows);

// Call once each way, as all layouts: over planning arenas, then over the allocated ones. `computes`: the kind of
// device whose ops will, which a dry device is not.
EngineBuffers lay_out_engine(Arena& cache, Arena& activations, const ModelConfig& model, DType dtype,
                             const SchedulerOptions& options, DeviceKind computes, Device& device, Stream& stream,
                             Ops& ops, const Mesh& mesh);

}  // namespace upcycle
