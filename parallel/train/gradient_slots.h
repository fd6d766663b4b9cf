#pragma once
#include <vector>

#include "core/arena.h"
#include "parallel/model/params.h"

namespace upcycle {

// Room for the fp32 gradients of the parts of the model (Bucket::layer) that a backward is at, where the gradients of
// the whole model have none. Backward adds one microbatch's gradients of a part to its slot; once they are reduced, the
// slot's memory serves another part. Neighbours in the order of backward lie at opposite ends, so that a part is
// reduced while the next one is computed: then only those before it must have ended. A tied embedding gets gradients
// from the head on, so its slot serves no other part.
struct GradientSlots {
  std::int64_t size = 0;                    // elements; 0: no group has slots
  std::vector<std::int64_t> dense, expert;  // where the slot of a part's bucket begins, by Bucket::layer + 1; empty:
                                            // the group's gradients lie elsewhere
  bool tied = false;
  Tensor memory;  // fp32 (size)

  bool serve(ParamGroup g) const { return !of_group(g).empty(); }
  Tensor of(ParamGroup g, const Bucket& bucket) const;  // fp32 (bucket's elements)

 private:
  const std::vector<std::int64_t>& of_group(ParamGroup g) const { return g == ParamGroup::Dense ? dense : expert; }
};

// Takes the slots of the groups that need some.
struct SlotNeeds {
  bool dense = false, expert = false;
};
GradientSlots take_slots(Arena& arena, const ParamTable& table, const SlotNeeds& needs);

}  // namespace upcycle
