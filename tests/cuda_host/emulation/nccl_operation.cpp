#include "tests/cuda_host/emulation/nccl_operation.h"

#include <cuda_bf16.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

ncclResult_t next_failure = ncclSuccess;
constexpr std::chrono::seconds kStuck{60};

// What every rank of a collective must say alike.
struct Header {
  std::uint64_t kind, count, type, op, root;
};

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
    default:
      emul::nccl_die("this data type is not emulated");
  }
}

// In rank order from `first` on, going round; rounded to the type after each addition, as where partial sums travel
// from rank to rank.
template <class T, class To, class From>
void add_up(const char* all, std::size_t n, int ranks, int first, To to, From from, char* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto at = [&](int r) {
      T t;
      std::memcpy(&t, all + (static_cast<std::size_t>((first + r) % ranks) * n + i) * sizeof(T), sizeof(T));
      return to(t);
    };
    auto sum = at(0);
    for (int r = 1; r < ranks; ++r) sum = to(from(sum + at(r)));
    const T t = from(sum);
    std::memcpy(out + i * sizeof(T), &t, sizeof(T));
  }
}

void reduce(const NcclCall& call, const ncclComm& comm, char* out) {
  const int ranks = comm.size, first = comm.adds_from;
  if (call.op != ncclSum) emul::nccl_die("only sums are emulated");
  const char* all = call.received.data();
  const auto same = [](auto x) { return x; };
  switch (call.type) {
    case ncclFloat32:
      return add_up<float>(all, call.count, ranks, first, same, same, out);
    case ncclFloat64:
      return add_up<double>(all, call.count, ranks, first, same, same, out);
    case ncclBfloat16:
      return add_up<__nv_bfloat16>(
          all, call.count, ranks, first, [](__nv_bfloat16 x) { return __bfloat162float(x); },
          [](float x) { return __float2bfloat16(x); }, out);
    default:
      emul::nccl_die("sums of this data type are not emulated");
  }
}

int as_int(std::size_t n) {
  if (n > 0x7fffffff) emul::nccl_die("more than 2 GiB in one call are not emulated");
  return static_cast<int>(n);
}

}  // namespace

std::size_t NcclCall::bytes() const { return count * size_of(type); }

void NcclOperation::announce(NcclCall& c) const {
  if (!c.collective()) return;
  const std::size_t ranks = static_cast<std::size_t>(comm.size);
  const Header header{static_cast<std::uint64_t>(c.kind), c.count, static_cast<std::uint64_t>(c.type),
                      static_cast<std::uint64_t>(c.op), static_cast<std::uint64_t>(c.peer)};
  c.headers.resize(sizeof(Header) * (ranks + 1));
  char* own = c.headers.data() + sizeof(Header) * ranks;
  std::memcpy(own, &header, sizeof(header));
  MPI_Iallgather(own, sizeof(Header), MPI_BYTE, c.headers.data(), sizeof(Header), MPI_BYTE, comm.collective,
                 &c.request);
}

void NcclOperation::move(NcclCall& c) const {
  const std::size_t n = c.bytes(), ranks = static_cast<std::size_t>(comm.size);
  switch (c.kind) {
    case NcclKind::AllReduce:
    case NcclKind::AllGather:
      c.sent.assign(c.from, c.from + n);
      c.received.resize(n * ranks);
      MPI_Iallgather(c.sent.data(), as_int(n), MPI_BYTE, c.received.data(), as_int(n), MPI_BYTE, comm.collective,
                     &c.request);
      break;
    case NcclKind::ReduceScatter:
      c.sent.assign(c.from, c.from + n * ranks);
      c.received.resize(n * ranks);
      MPI_Ialltoall(c.sent.data(), as_int(n), MPI_BYTE, c.received.data(), as_int(n), MPI_BYTE, comm.collective,
                    &c.request);
      break;
    case NcclKind::Send:
      c.sent.assign(c.from, c.from + n);
      MPI_Isend(c.sent.data(), as_int(n), MPI_BYTE, c.peer, 0, comm.point_to_point, &c.request);
      break;
    case NcclKind::Recv:
      c.received.resize(n + 1);  // one more, to see messages that are too long
      MPI_Irecv(c.received.data(), as_int(n + 1), MPI_BYTE, c.peer, 0, comm.point_to_point, &c.request);
      break;
  }
}

bool NcclOperation::arrived(NcclCall& c) const {
  if (c.request == MPI_REQUEST_NULL) return true;
  int done = 0;
  MPI_Status status;
  MPI_Test(&c.request, &done, &status);
  if (done == 0) return false;
  if (c.kind != NcclKind::Recv) return true;
  int got = 0;
  MPI_Get_count(&status, MPI_BYTE, &got);
  if (static_cast<std::size_t>(got) != c.bytes())
    emul::nccl_die(comm.name + ": rank " + std::to_string(comm.rank) + " expected " + std::to_string(c.bytes()) +
                   " bytes from rank " + std::to_string(c.peer) + " but was sent " + std::to_string(got));
  return true;
}

void NcclOperation::check_headers(const NcclCall& c) const {
  const char* own = c.headers.data() + sizeof(Header) * static_cast<std::size_t>(comm.size);
  for (int r = 0; r < comm.size; ++r)
    if (std::memcmp(c.headers.data() + sizeof(Header) * static_cast<std::size_t>(r), own, sizeof(Header)) != 0)
      emul::nccl_die(comm.name + ": rank " + std::to_string(comm.rank) + " and rank " + std::to_string(r) +
                     " issued different collectives, counts, types or roots");
}

void NcclOperation::store(NcclCall& c) const {
  std::vector<char> sum;
  switch (c.kind) {
    case NcclKind::AllReduce:
    case NcclKind::ReduceScatter:
      sum.resize(c.bytes());
      reduce(c, comm, sum.data());
      std::copy(sum.begin(), sum.end(), c.to);
      break;
    case NcclKind::AllGather:
      std::copy(c.received.begin(), c.received.end(), c.to);
      break;
    case NcclKind::Recv:
      std::copy(c.received.begin(), c.received.end() - 1, c.to);
      break;
    case NcclKind::Send:
      break;
  }
}

bool NcclOperation::step() {
  if (comm.aborted) return true;
  if (comm.error != ncclSuccess) return sched_yield(), false;
  if (pause_ < 0) pause_ = emul::nccl_delay(3);
  if (pause_ > 0) return --pause_, false;
  if (phase_ == Phase::Waits) {
    if (next_failure != ncclSuccess) {
      comm.error = next_failure;
      next_failure = ncclSuccess;
      return false;
    }
    for (NcclCall& c : calls) announce(c);
    since_ = std::chrono::steady_clock::now();
    phase_ = Phase::Announced;
  }
  // Not all_of, which would look at one only.
  if (std::count_if(calls.begin(), calls.end(), [this](NcclCall& c) { return !arrived(c); }) > 0) {
    if (std::chrono::steady_clock::now() - since_ > kStuck)
      emul::nccl_die(comm.name + ": rank " + std::to_string(comm.rank) + " waits for the others for a minute");
    sched_yield();
    return false;
  }
  const emul::DeviceAccess access;
  if (phase_ == Phase::Announced) {
    for (NcclCall& c : calls) {
      if (c.collective()) check_headers(c);
      move(c);
    }
    phase_ = Phase::Moves;
    pause_ = -1;
    return false;
  }
  for (NcclCall& c : calls) store(c);
  return true;
}

namespace emul {

int nccl_delay(int most) {
  static std::uint64_t seed = ~options().seed;
  static std::mt19937_64 rng;
  if (seed != options().seed) {
    seed = options().seed;
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    rng.seed(seed * 64 + static_cast<std::uint64_t>(rank));
  }
  return static_cast<int>(rng() % static_cast<std::uint64_t>(most + 1));
}

void nccl_die(const std::string& what) {
  std::fprintf(stderr, "emulated NCCL: %s\n", what.c_str());
  MPI_Abort(MPI_COMM_WORLD, 7);
  std::abort();
}

void fail_next_nccl_operation(ncclResult_t error) { next_failure = error; }

}  // namespace emul
