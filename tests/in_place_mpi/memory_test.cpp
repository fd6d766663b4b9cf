#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>

#include "core/config/describe.h"
#include "data/files.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"
#include "tests/upcycle/models.h"

// Upcycling from a checkpoint written at another tp takes a rank's MoE arenas and bounded buffers: no second model.
namespace upcycle::test {
namespace {

constexpr double kMiB = 1 << 20;

// A line of /proc/self/status, in bytes: VmRSS, resident now, or VmHWM, the peak since reset_peak().
std::size_t resident(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::size_t kib = 0;
  while (status >> word)
    if (word == field + ":" && status >> kib) return kib * 1024;
  ADD_FAILURE() << "no " << field << " in /proc/self/status";
  return 0;
}

// Returns free heap memory to the system: memory that is already resident would hide what is taken later.
void trim_heap() { (void)malloc_trim(0); }

void reset_peak() {
  std::ofstream out("/proc/self/clear_refs");
  out << 5 << std::flush;
  ASSERT_TRUE(out.good()) << "/proc/self/clear_refs can not be written";
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct InPlace : ::testing::Test {
  Rig rig;

  Config config(std::int64_t H, std::int64_t L, std::int64_t V) {
    Config c;
    c.dtype = "bf16";
    c.model.hidden_size = H;
    c.model.intermediate_size = 4 * H;
    c.model.num_hidden_layers = L;
    c.model.num_attention_heads = 16;
    c.model.num_key_value_heads = 4;
    c.model.vocab_size = V;
    c.model.max_position_embeddings = 64;
    c.train.steps = 1;
    c.train.seq_length = 64;
    c.parallel.imbalance_factor = 4;
    c.train.micro_batch_size = 1;
    c.train.global_batch_size = 4;
    c.train.optimizer = "sgd";
    return c;
  }

  // A dense model with random weights, saved by four ranks at tp = 4.
  void write_dense(const Config& c, const Mesh& mesh, const std::string& dir) {
    Config dense = c;
    dense.parallel.tp = mesh.layout.tp;
    Trainer t = make_trainer(dense, mesh, *rig.device, *rig.stream, *rig.ops);
    initialize_trainer(t, 1);
    CheckpointWriter writer(dir, *mesh.world, 0);
    Snapshot snapshot = make_snapshot(t);
    CheckpointInfo info = checkpoint_info(t);
    info.config = to_json(dense);
    writer.start(info, take_snapshot(t, snapshot), {});
    writer.finish();
  }

  // Makes every page of the arenas resident: otherwise pages that upcycling does not touch would hide other
  // allocations.
  static void touch(const Trainer& t) {
    for (const Arena* a : {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer, &t.activations})
      for (std::size_t i = 0; i < a->capacity(); i += 4096) {
        auto* page = static_cast<volatile char*>(a->data()) + i;
        *page = *page;
      }
  }
  static std::size_t arenas(const Trainer& t) {
    return t.memory.parameters.capacity() + t.memory.gradients.capacity() + t.memory.optimizer.capacity() +
           t.activations.capacity();
  }

  // Bytes of the dense rectangles that this rank needs, each once.
  static std::int64_t needed_bytes(const ModelConfig& dense, const Trainer& t) {
    const ExpertMaker maker(t.config.model, t.config.upcycle, 1, {});
    std::set<std::tuple<std::string, std::int64_t, std::int64_t>> seen;
    std::int64_t bytes = 0;
    for (const ParamRow& row : t.table().rows) {
      const Origin from = maker.origin(row, row.part);
      if (!from.tensor.empty() && seen.emplace(from.tensor, from.part.row, from.part.column).second)
        bytes += row.part.size() * static_cast<std::int64_t>(sizeof(float));
    }
    EXPECT_LE(bytes, count_parameters(dense).total * static_cast<std::int64_t>(sizeof(float)));
    return bytes;
  }

  // The time to read as many bytes of the files, from the first on.
  static double raw_read(Checkpoint& c, std::int64_t bytes) {
    std::vector<char> block(std::size_t{4} << 20);
    const auto start = std::chrono::steady_clock::now();
    for (const auto& f : c.files()) {
      const FileDescriptor file = open_regular_file(c.directory() + "/" + f.name);
      for (std::int64_t at = 0; at < f.bytes && bytes > 0;) {
        const std::int64_t n = std::min({static_cast<std::int64_t>(block.size()), f.bytes - at, bytes});
        file.read_at(static_cast<std::uint64_t>(at), block.data(), static_cast<std::size_t>(n));
        at += n;
        bytes -= n;
      }
    }
    EXPECT_EQ(bytes, 0) << "the files hold fewer bytes than are needed";
    return seconds_since(start);
  }

  // The time to copy as many bytes as upcycling writes: parameters and masters, from resident memory.
  static double one_copy(const Trainer& t) {
    const Arena& from = t.memory.gradients;
    const auto start = std::chrono::steady_clock::now();
    for (const Arena* to : {&t.memory.parameters, &t.memory.optimizer})
      for (std::size_t at = 0; at < to->capacity(); at += from.capacity())
        std::memcpy(static_cast<char*>(to->data()) + at, from.data(), std::min(from.capacity(), to->capacity() - at));
    return seconds_since(start);
  }

  void measure(const Config& dense, Config moe, const std::string& dir, std::int64_t least_bytes) {
    const auto& p = moe.parallel;
    const Mesh mesh = make_test_mesh(static_cast<int>(p.tp), static_cast<int>(p.ep), static_cast<int>(p.etp));
    const std::int64_t parameters = count_parameters(moe.model).total;
    ASSERT_GE(2 * parameters, least_bytes);
    std::vector<std::int32_t> probe;
    for (int i = 0; i < 64; ++i) probe.push_back(i * 37 % static_cast<int>(dense.model.vocab_size));
    trim_heap();
    const std::size_t baseline = resident("VmRSS");  // the communicators exist

    const auto source = open_checkpoint(dir, true, mesh.world.get());
    Trainer t = make_trainer(moe, mesh, *rig.device, *rig.stream, *rig.ops);
    touch(t);
    trim_heap();
    const std::size_t touched = resident("VmRSS");
    reset_peak();
    mesh.world->barrier();
    const auto start = std::chrono::steady_clock::now();
    const UpcycleReport report = upcycle_from_checkpoint(t, *source, probe);
    const double seconds = mesh.world->max_of(seconds_since(start)), made = mesh.world->max_of(report.seconds);
    const std::size_t peak = resident("VmHWM");
    EXPECT_LE(report.change, report.tolerance);
    EXPECT_GE(peak, baseline + arenas(t) * 9 / 10) << "the arenas are not resident: nothing was measured";
    EXPECT_LE(static_cast<double>(peak - baseline), 1.1 * static_cast<double>(arenas(t)) + 64 * kMiB);
    EXPECT_LE(static_cast<double>(peak), static_cast<double>(touched) + 64 * kMiB);

    mesh.world->barrier();
    const std::int64_t needed = needed_bytes(dense.model, t);
    const double raw = mesh.world->max_of(raw_read(*source, needed));
    mesh.world->barrier();
    const double copy = mesh.world->max_of(one_copy(t));
    const double most = mesh.world->max_of(static_cast<double>(peak - baseline));
    const double beyond = mesh.world->max_of(static_cast<double>(peak) - static_cast<double>(touched));
    if (mesh.world->rank() == 0)
      std::printf(
          "tp=%d ep=%d etp=%d: %.0f M parameters, %.0f MB in bf16; a rank: peak %.1f MiB of arenas %.1f MiB, %.1f MiB "
          "beyond them while upcycling; %.2f s, %.2f s without the check; raw read of the same %.0f MB %.2f s, a copy "
          "of "
          "what is written %.2f s: %.2f times both\n",
          mesh.layout.tp, mesh.layout.ep, mesh.layout.etp, static_cast<double>(parameters) / 1e6,
          static_cast<double>(parameters) / 5e5, most / kMiB, static_cast<double>(arenas(t)) / kMiB, beyond / kMiB,
          seconds, made, static_cast<double>(needed) / 1e6, raw, copy, made / (raw + copy));
  }

  // In a live run: both trainers' arenas and bounded buffers.
  void measure_live(const Config& dense, const Config& moe, const std::string& dir) {
    const auto& p = moe.parallel;
    const Mesh mesh = make_test_mesh(static_cast<int>(p.tp), static_cast<int>(p.ep), static_cast<int>(p.etp));
    Config from = dense;
    from.parallel = p;
    const auto source = open_checkpoint(dir, true, mesh.world.get());
    Trainer before = make_trainer(from, mesh, *rig.device, *rig.stream, *rig.ops);
    restore_trainer(before, *source);
    Trainer t = make_trainer(moe, mesh, *rig.device, *rig.stream, *rig.ops);
    touch(before);
    touch(t);
    trim_heap();
    const std::size_t touched = resident("VmRSS");
    reset_peak();
    mesh.world->barrier();
    const auto start = std::chrono::steady_clock::now();
    convert_live(before, t);
    const double seconds = mesh.world->max_of(seconds_since(start));
    const std::size_t peak = resident("VmHWM");
    EXPECT_LE(static_cast<double>(peak), static_cast<double>(touched) + 64 * kMiB);
    const double beyond = mesh.world->max_of(static_cast<double>(peak) - static_cast<double>(touched));
    const LiveBytes bytes = plan_live(dense.model, moe, mesh.layout, mesh.rank);
    if (mesh.world->rank() == 0)
      std::printf(
          "live tp=%d ep=%d etp=%d: %.1f MiB beyond both trainers; %.2f s for %.0f MB of masters and %.0f MB of "
          "working weights that this rank gave\n",
          mesh.layout.tp, mesh.layout.ep, mesh.layout.etp, beyond / kMiB, seconds,
          static_cast<double>(bytes.masters) / 1e6, static_cast<double>(bytes.working_tp + bytes.working_edp) / 1e6);
  }

  void run(const Config& dense, const UpcycleConfig& upcycle, const ModelConfig& target,
           const std::vector<std::array<int, 3>>& layouts, std::int64_t least_bytes) {
    const Mesh written = make_test_mesh(4);
    SharedFolder folder(*written.world);
    write_dense(dense, written, folder.path);
    for (const auto& [tp, ep, etp] : layouts) {
      Config moe = dense;
      moe.upcycle = upcycle;
      moe.model = upcycled_model(dense.model, target, upcycle, "test");
      moe.parallel.tp = tp, moe.parallel.ep = ep, moe.parallel.etp = etp;
      measure(dense, moe, folder.path, least_bytes);
      measure_live(dense, moe, folder.path);
    }
  }
};

TEST_F(InPlace, AHundredMegabytes) {
  const Config dense = config(512, 2, 8000);
  run(dense, {}, experts(8, 2), {{1, 4, 1}, {2, 2, 2}, {2, 4, 1}}, 100'000'000);
  run(dense, {"virtual_group", "down"}, experts(16, 4, 1024), {{1, 4, 1}, {2, 2, 2}}, 100'000'000);
}

struct FullInPlace : InPlace {};

TEST_F(FullInPlace, AGigabyte) {
  alarm(1200);  // a busy machine writes and reads some gigabytes
  run(config(1024, 6, 16000), {}, experts(8, 2), {{1, 4, 1}, {2, 4, 1}, {2, 2, 2}}, 1'000'000'000);
}

}  // namespace
}  // namespace upcycle::test
