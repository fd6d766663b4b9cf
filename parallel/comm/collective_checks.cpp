#include "parallel/comm/collective_checks.h"

#include "core/check.h"

namespace upcycle {
namespace {

void check_tensor(const Communicator& group, const char* call, const Tensor& t) {
  UPCYCLE_CHECK(t.contiguous(), "{} {}: {} has strided rows", group.name(), call, t.describe());
  UPCYCLE_CHECK(t.data != nullptr || t.size() == 0, "{} {}: {} has no memory", group.name(), call, t.describe());
}

void check_reducible(const Communicator& group, const char* call, const Tensor& t) {
  UPCYCLE_CHECK(t.dtype == DType::F32 || t.dtype == DType::BF16 || t.dtype == DType::F64,
                "{} {}: {} is not summed, only fp32, bf16 and fp64 are", group.name(), call, t.describe());
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a.data), b_begin = reinterpret_cast<std::uintptr_t>(b.data);
  return a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

// `part` is either this rank's part of `whole` or does not overlap it.
void check_part(const Communicator& group, const char* call, const Tensor& whole, const Tensor& part) {
  UPCYCLE_CHECK(whole.dtype == part.dtype && whole.size() == part.size() * group.size(),
                "{} {}: {} is not {} parts of {}", group.name(), call, whole.describe(), group.size(), part.describe());
  const char* own = static_cast<const char*>(whole.data) + static_cast<std::size_t>(group.rank()) * part.bytes();
  UPCYCLE_CHECK(part.data == own || !overlap(whole, part), "{} {}: the part overlaps another rank's place",
                group.name(), call);
}

// The sum of the counts, which must fit the rows.
std::int64_t check_counts(const Communicator& group, const char* side, std::span<const std::int64_t> counts,
                          const Tensor& rows) {
  UPCYCLE_CHECK(counts.size() == static_cast<std::size_t>(group.size()), "{} all_to_all_v: {} {} counts for {} ranks",
                group.name(), counts.size(), side, group.size());
  std::int64_t sum = 0;
  for (const std::int64_t c : counts) {
    UPCYCLE_CHECK(0 <= c && c <= rows.rows() - sum, "{} all_to_all_v: a {} count of {} after {} rows of {}",
                  group.name(), side, c, sum, rows.describe());
    sum += c;
  }
  return sum;
}

}  // namespace

void check_all_reduce(const Communicator& group, const Tensor& data) {
  check_tensor(group, "all_reduce", data);
  check_reducible(group, "all_reduce", data);
}

void check_reduce_scatter(const Communicator& group, const Tensor& out, const Tensor& in) {
  check_tensor(group, "reduce_scatter", in);
  check_tensor(group, "reduce_scatter", out);
  check_reducible(group, "reduce_scatter", in);
  check_part(group, "reduce_scatter", in, out);
}

void check_all_gather(const Communicator& group, const Tensor& out, const Tensor& in) {
  check_tensor(group, "all_gather", in);
  check_tensor(group, "all_gather", out);
  check_part(group, "all_gather", out, in);
}

void check_all_to_all_v(const Communicator& group, const Tensor& out, std::span<const std::int64_t> recv_counts,
                        const Tensor& in, std::span<const std::int64_t> send_counts) {
  check_tensor(group, "all_to_all_v", in);
  check_tensor(group, "all_to_all_v", out);
  UPCYCLE_CHECK(in.dtype == out.dtype && in.columns() == out.columns(), "{} all_to_all_v: rows of {} into rows of {}",
                group.name(), in.describe(), out.describe());
  const std::int64_t sent = check_counts(group, "send", send_counts, in);
  const std::int64_t received = check_counts(group, "receive", recv_counts, out);
  const auto self = static_cast<std::size_t>(group.rank());
  UPCYCLE_CHECK(send_counts[self] == recv_counts[self], "{} all_to_all_v: sends {} rows to itself, receives {}",
                group.name(), send_counts[self], recv_counts[self]);
  UPCYCLE_CHECK(group.size() == 1 || !overlap(in.slice_rows(0, sent), out.slice_rows(0, received)),
                "{} all_to_all_v: the rows sent overlap the rows received", group.name());
}

void check_root(const Communicator& group, int root) {
  UPCYCLE_CHECK(0 <= root && root < group.size(), "{}: root {} of {} ranks", group.name(), root, group.size());
}

}  // namespace upcycle
