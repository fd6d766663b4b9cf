#include "launch/doctor_checks.h"

#include <fmt/core.h>
#include <sys/vfs.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/arena.h"
#include "core/check.h"
#include "core/staging.h"
#include "data/files.h"
#include "data/hdf5.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Small whole numbers: sums of their products are exact in fp32, in any order.
float operand(std::int64_t row, std::int64_t column, std::int64_t of) {
  return static_cast<float>((row * 7 + column * 3 + of) % 5 - 2);
}

// Whether C = A B^T by its rows' sums: those of C are A's rows times the sums of B's columns.
bool is_product(const std::vector<float>& c, std::int64_t n) {
  std::vector<double> columns(static_cast<std::size_t>(n), 0);
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t k = 0; k < n; ++k) columns[static_cast<std::size_t>(k)] += operand(j, k, 1);
  for (std::int64_t i = 0; i < n; ++i) {
    double found = 0, wanted = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      found += c[static_cast<std::size_t>(i * n + k)];
      wanted += operand(i, k, 0) * columns[static_cast<std::size_t>(k)];
    }
    if (found != wanted) return false;
  }
  return true;
}

// Products C = A B^T of (n, n) matrices.
class Products {
 public:
  Products(const Backend& backend, DType dtype, std::int64_t n) : backend_(backend), n_(n), host_(size()) {
    const auto layout = [&] {
      OpLimits limits;
      limits.T = limits.H = limits.F = n;
      limits.dtype = dtype;
      a_ = arena_.take(dtype, {n, n});
      b_ = arena_.take(dtype, {n, n});
      c_ = arena_.take(DType::F32, {n, n});
      scratch_ = arena_.take(DType::F32, {static_cast<std::int64_t>(backend.ops->workspace_bytes(limits) / 4 + 1)});
    };
    layout();
    arena_.allocate(*backend.device);
    layout();
    fill(a_, 0);
    fill(b_, 1);
    static_cast<void>(seconds(1));  // chooses an algorithm
  }
  double seconds(int count) {
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i)
      backend_.ops->matmul(*backend_.stream, {scratch_.data, scratch_.bytes()}, MatmulKind::NT, c_, a_, b_);
    backend_.stream->synchronize();
    return since(start);
  }
  bool right() {
    {
      Staging staging(*backend_.device, *backend_.stream);
      read_floats(staging, c_, host_.data());
    }
    return is_product(host_, n_);
  }

 private:
  std::size_t size() const { return static_cast<std::size_t>(n_ * n_); }
  void fill(const Tensor& to, std::int64_t of) {
    for (std::size_t i = 0; i < size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      host_[i] = operand(at / n_, at % n_, of);
    }
    Staging staging(*backend_.device, *backend_.stream);
    write_floats(staging, to, host_.data());
  }

  const Backend& backend_;
  std::int64_t n_;
  Arena arena_{"products"};
  Tensor a_, b_, c_, scratch_;
  std::vector<float> host_;
};

// Large enough to be timed. GPUs differ by orders of magnitude, and the emulated one by more.
std::int64_t product_size(const Backend& backend, DType dtype) {
  if (backend.gpu < 0) return 512;
  std::int64_t n = 256;
  while (n < 4096 && Products(backend, dtype, n).seconds(1) < 1e-3) n *= 2;
  return n;
}

std::string file_system(const std::string& folder) {
  struct statfs s {};
  if (statfs(folder.c_str(), &s) != 0) return "unknown";
  switch (static_cast<std::uint32_t>(s.f_type)) {
    case 0xef53:
      return "ext4";
    case 0x58465342:
      return "xfs";
    case 0x9123683e:
      return "btrfs";
    case 0x01021994:
      return "tmpfs";
    case 0x794c7630:
      return "overlay";
    case 0x6969:
      return "nfs";
    case 0x0bd00bd0:
      return "lustre";
    case 0x47504653:
      return "gpfs";
    case 0x19830326:
      return "beegfs";
    case 0x00c36400:
      return "ceph";
    case 0x65735546:
      return "fuse";
    case 0x2fc12fc1:
      return "zfs";
    default:
      return fmt::format("{:#x}", static_cast<std::uint32_t>(s.f_type));
  }
}

// Writes a file of HDF5 as checkpoints are, and reads it again; seconds.
double write_and_read(const std::string& path, std::int64_t rows) {
  constexpr std::int64_t kColumns = 1024;
  std::vector<float> values(static_cast<std::size_t>(rows * kColumns));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 8191);
  const auto start = Clock::now();
  Hdf5File file = Hdf5File::create(path);
  file.write("doctor/0", values.data(), rows, kColumns, {});
  file.close();
  const double seconds = since(start);
  std::vector<float> again(values.size());
  Hdf5File::open_read(path).read("doctor/0", 0, rows, 0, kColumns, again.data());
  UPCYCLE_CHECK(again == values, "{}: other values are read than were written", path);
  return seconds;
}

}  // namespace

ProductCheck check_products(const Backend& backend, Communicator& world, DType dtype, double seconds) {
  const auto n = static_cast<std::int64_t>(world.max_of(static_cast<double>(product_size(backend, dtype))));
  Products products(backend, dtype, n);
  const double once = products.seconds(1);
  ProductCheck check;
  check.right = products.right();
  world.barrier();
  constexpr int kRounds = 8;
  const int each = std::max(1, static_cast<int>(seconds / kRounds / once));
  std::vector<double> rounds;
  for (const auto start = Clock::now(); rounds.size() < kRounds || since(start) < seconds;)
    rounds.push_back(products.seconds(each) / each);
  check.right = check.right && products.right();
  const auto mean = [&](std::size_t from, std::size_t to) {
    double sum = 0;
    for (std::size_t i = from; i < to; ++i) sum += rounds[i];
    return sum / static_cast<double>(to - from);
  };
  const double work = 2 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  const std::size_t quarter = rounds.size() / 4;
  check.flops = work / mean(0, rounds.size());
  check.sustained = mean(0, quarter) / mean(rounds.size() - quarter, rounds.size());
  return check;
}

ExchangeCheck check_exchange(const Backend& backend, Communicator& world, double seconds) {
  const std::int64_t ranks = world.size(), own = world.rank();
  if (ranks == 1) return {};
  constexpr std::int64_t kColumns = 1024;
  const std::int64_t rows = std::max<std::int64_t>(1, 4096 / ranks);  // to each: 16 MiB to all
  Arena arena("exchange");
  Tensor in, out;
  const auto layout = [&] {
    in = arena.take(DType::F32, {ranks * rows, kColumns});
    out = arena.take(DType::F32, {ranks * rows, kColumns});
  };
  layout();
  arena.allocate(*backend.device);
  layout();
  std::vector<float> host(static_cast<std::size_t>(in.size()));
  const auto value = [&](std::int64_t from, std::int64_t to) { return static_cast<float>(from * ranks + to); };
  const std::int64_t part = rows * kColumns;
  for (std::int64_t i = 0; i < in.size(); ++i) host[static_cast<std::size_t>(i)] = value(own, i / part);
  {
    Staging staging(*backend.device, *backend.stream);
    write_floats(staging, in, host.data());
  }
  // Seconds of one exchange, of the slowest rank.
  const auto exchange = [&](const std::vector<std::int64_t>& sends, const std::vector<std::int64_t>& receives,
                            int times) {
    world.barrier();
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) backend.stream->wait(world.all_to_all_v(out, receives, in, sends));
    backend.stream->synchronize();
    return world.max_of(since(start)) / times;
  };
  const std::vector<std::int64_t> all(static_cast<std::size_t>(ranks), rows);
  const double once = std::min(exchange(all, all, 1), exchange(all, all, 1));  // the first makes connections
  const int times = std::max(1, static_cast<int>(world.max_of(seconds / once)));
  ExchangeCheck check;
  check.all_to_all = static_cast<double>((ranks - 1) * part * 4) / exchange(all, all, times);
  {
    Staging staging(*backend.device, *backend.stream);
    read_floats(staging, out, host.data());
  }
  for (std::int64_t i = 0; i < out.size(); ++i)
    check.right = check.right && host[static_cast<std::size_t>(i)] == value(i / part, own);
  for (std::int64_t hub = 0; hub < ranks; ++hub) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks), own == hub ? rows : 0);
    counts[static_cast<std::size_t>(hub)] = own == hub ? 0 : rows;
    double took = exchange(counts, counts, 1);  // the best of some: other work on the machine says nothing of the link
    for (int i = 0; i < 5; ++i) took = std::min(took, exchange(counts, counts, 2));
    if (own == hub) check.alone = static_cast<double>((ranks - 1) * part * 4) / took;
  }
  return check;
}

FolderCheck check_folder(const std::string& folder, Communicator& world) {
  namespace fs = std::filesystem;
  FolderCheck check;
  constexpr std::int64_t kRows = 4096;  // 16 MiB
  // Rank 0's clock is part of the name, so that no other doctor's file is taken for its own.
  const std::string stem =
      folder + "/.doctor_" + world.broadcast_text(fmt::format("{}", Clock::now().time_since_epoch().count()), 0) + "_";
  const auto path_of = [&](int rank) { return fmt::format("{}{}.h5", stem, rank); };
  std::error_code error;
  try {
    check.kind = file_system(folder);
    check.free = static_cast<double>(fs::space(folder).available);
    check.write = static_cast<double>(kRows) * 4096 / write_and_read(path_of(world.rank()), kRows);
  } catch (const std::exception& e) {
    check.failure = e.what();
  }
  world.barrier();
  if (check.failure.empty() && !fs::exists(path_of(0), error))
    check.failure = "does not see rank 0's file in " + folder + ": all hosts must share the run folder";
  world.barrier();
  fs::remove(path_of(world.rank()), error);
  return check;
}

ProcessorFacts processor_facts() {
  ProcessorFacts facts;
  std::ifstream in("/proc/cpuinfo");
  std::string flags;
  for (std::string line; std::getline(in, line) && (facts.name.empty() || flags.empty());) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("model name")) facts.name = line.substr(colon + 2);
    if (line.starts_with("flags")) flags = line.substr(colon + 1) + " ";
  }
  for (const char* one : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    if (flags.find(" " + std::string(one) + " ") != std::string::npos)
      facts.instructions += (facts.instructions.empty() ? "" : " ") + std::string(one);
  return facts;
}

}  // namespace upcycle
