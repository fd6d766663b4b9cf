#include "kernels/checks/paged_attention.h"

#include <bit>

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

void check_cache(const char* op, const PagedCache& cache) {
  const Tensor& k = cache.k;
  UPCYCLE_CHECK(k.rank == 4 && (k.dtype == DType::F32 || k.dtype == DType::BF16),
                "{}: the keys are {}, expected fp32 or bf16 (pages, K, P, D)", op, k.describe());
  check_tensor(op, k, k.dtype, {k.shape[0], k.shape[1], k.shape[2], k.shape[3]});
  check_tensor(op, cache.v, k.dtype, {k.shape[0], k.shape[1], k.shape[2], k.shape[3]});
  const std::int64_t P = cache.page_rows();
  UPCYCLE_CHECK(P >= 8 && P <= 64 && std::has_single_bit(static_cast<std::uint64_t>(P)),
                "{}: pages of {} rows, expected 8, 16, 32 or 64", op, P);
  UPCYCLE_CHECK(k.shape[1] > 0 && k.shape[3] > 0, "{}: the keys are {}, without heads or columns", op, k.describe());
}

}  // namespace

StoreSizes check_store_in_pages(const PagedCache& cache, const Tensor& k, const Tensor& v, const Tensor& slots) {
  check_cache("store_in_pages: cache", cache);
  const std::int64_t K = cache.k.shape[1], P = cache.k.shape[2], D = cache.k.shape[3];
  check_rows("store_in_pages: k", k, k.rows(), K * D);
  check_rows("store_in_pages: v", v, k.rows(), K * D);
  UPCYCLE_CHECK(k.dtype == cache.k.dtype && v.dtype == cache.k.dtype,
                "store_in_pages: k {}, v {} and the cache {} differ in type", k.describe(), v.describe(),
                cache.k.describe());
  check_tensor("store_in_pages: slots", slots, DType::I32, {k.rows()});
  return {k.rows(), K, D, P, cache.k.shape[0]};
}

PagedSizes check_paged_attention(const Tensor& out, const Tensor& q, const PagedCache& cache,
                                 const PagedSequences& sequences, float scale) {
  check_cache("paged_attention: cache", cache);
  PagedSizes p{};
  p.pages = cache.k.shape[0];
  p.P = cache.page_rows();
  attention::Sizes& z = p.rows;
  z.Tq = q.rows();
  z.Tk = p.pages * p.P;
  z.K = cache.k.shape[1];
  z.D = cache.k.shape[3];
  z.Dp = attention::padded(z.D);
  z.scale = attention::score_scale(scale, z.D);
  UPCYCLE_CHECK(q.rank == 2 && q.columns() > 0 && q.columns() % (z.K * z.D) == 0,
                "paged_attention: q {} does not hold a multiple of {} heads of size {}", q.describe(), z.K, z.D);
  z.N = q.columns() / z.D;
  z.G = z.N / z.K;
  check_rows("paged_attention: q", q, z.Tq, z.N * z.D);
  check_rows("paged_attention: out", out, z.Tq, z.N * z.D);
  UPCYCLE_CHECK(q.dtype == cache.k.dtype && out.dtype == q.dtype,
                "paged_attention: q {}, out {} and the cache {} differ in type", q.describe(), out.describe(),
                cache.k.describe());
  check_tensor("paged_attention: offsets", sequences.offsets, DType::I32, {sequences.count + 1});
  check_tensor("paged_attention: lengths", sequences.lengths, DType::I32, {sequences.count});
  UPCYCLE_CHECK(sequences.pages.rank == 2, "paged_attention: pages are {}, expected i32 (sequences, most pages of one)",
                sequences.pages.describe());
  p.columns = sequences.pages.shape[1];
  check_tensor("paged_attention: pages", sequences.pages, DType::I32, {sequences.count, p.columns});
  UPCYCLE_CHECK(
      sequences.most_rows >= 0 && sequences.most_rows <= sequences.most_keys && sequences.most_keys <= p.columns * p.P,
      "paged_attention: sequences of up to {} rows and {} keys in up to {} pages of {}", sequences.most_rows,
      sequences.most_keys, p.columns, p.P);
  return p;
}

}  // namespace upcycle
