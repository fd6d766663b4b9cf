#pragma once
#include <cstdint>

#include "kernels/attention_sizes.h"

namespace upcycle {

// T, K, D and the rows P of a page.
struct StoreSizes {
  std::int64_t T, K, D, P, pages;
};
StoreSizes check_store_in_pages(const PagedCache& cache, const Tensor& k, const Tensor& v, const Tensor& slots);

struct PagedSizes {
  attention::Sizes rows;  // Tk: rows of all pages
  std::int64_t P, pages;
  std::int64_t columns;  // of the table of pages: the most that one sequence may have
};
// Checks what needs no device data.
PagedSizes check_paged_attention(const Tensor& out, const Tensor& q, const PagedCache& cache,
                                 const PagedSequences& sequences, float scale);

}  // namespace upcycle
