#include "launch/bench/checkpoint.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <thread>

#include "core/check.h"
#include "core/config/describe.h"
#include "core/error.h"
#include "core/log.h"
#include "core/plain_text.h"
#include "data/files.h"
#include "launch/agree_on_start.h"
#include "launch/bench/measured_config.h"
#include "launch/check_fits.h"
#include "launch/options.h"
#include "launch/run_with_ranks.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/comm/agree.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr const char* kRun = "upcycle_bench_checkpoint";  // the run folder, in --folder
constexpr int kSnapshots = 2;

// The folder with all that is written, until it goes out of scope.
struct Scratch {
  std::string path;
  bool mine;  // on rank 0
  ~Scratch() {
    try {
      if (mine) remove_tree(path);
    } catch (const std::exception& e) {
      log_warn("{}; remove {}", plain_text(e.what()), path);
    }
  }
};

// Seconds of the slowest rank, one for each repeat.
struct Times {
  std::vector<double> all;
  double median() const {
    std::vector<double> sorted = all;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

struct Measured {
  Times synchronous, raw, stall, publishing, second_of_one, second_of_two, restore;
  double bytes = 0, largest_copy = 0;  // of all ranks' files; of the rank's copy that is largest
};

class SaveBench {
 public:
  SaveBench(Trainer& t, const Config& c, const std::string& folder) : t_(t), config_(to_json(c)), run_(folder) {
    for (int i = 0; i < kSnapshots; ++i) snapshots_.push_back(make_snapshot(t));
  }

  Measured measure(std::int64_t repeats) {
    Measured m;
    for (Snapshot& snapshot : snapshots_) {  // the first touch of memory and of the run folder is no measure
      start(snapshot);
      finish();
    }
    std::vector<double> sizes;
    const std::string newest = run_ + "/" + step_folder_name(step_) + "/";
    for (const std::string& name : {model_file_name(world().rank()), optimizer_file_name(world().rank())})
      if (fs::exists(newest + name)) sizes.push_back(static_cast<double>(fs::file_size(newest + name)));
    double own = 0;
    for (const double size : sizes) own += size;
    m.bytes = world().sum_of(own);
    m.largest_copy = world().max_of(static_cast<double>(snapshots_[0].arena.capacity()));
    for (std::int64_t i = 0; i < repeats; ++i) {
      raw(m, sizes);
      time(m.synchronous, [&] {
        start(snapshots_[0]);
        writer_.finish();
      });
      clear();
      time(m.stall, [&] { start(snapshots_[0]); });
      bool published = false;
      Times stages;  // what training waits for: rank 0 publishes beside it
      while (!published) {
        while (world().max_of(writer_.ready() ? 0 : 1) > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        time(stages, [&] { published = writer_.advance(); });
      }
      m.publishing.all.push_back(std::accumulate(stages.all.begin(), stages.all.end(), 0.0));
      clear();
      start(snapshots_[0]);
      time(m.second_of_one, [&] {  // the only copy is free again once the first save is published
        writer_.finish();
        start(snapshots_[0]);
      });
      finish();
      start(snapshots_[0]);
      time(m.second_of_two, [&] { start(snapshots_[1]); });
      writer_.finish();
      finish();
      time(m.restore, [&] { restore_trainer(t_, *open_checkpoint(run_, true, &world())); });
    }
    return m;
  }

 private:
  Communicator& world() const { return *t_.mesh->world; }

  template <class F>
  void time(Times& times, const F& f) {
    world().barrier();
    const auto begin = std::chrono::steady_clock::now();
    f();
    times.all.push_back(
        world().max_of(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()));
  }

  // Returns once the state is copied. On a GPU a step goes on meanwhile, to its update.
  void start(Snapshot& snapshot) {
    CheckpointInfo info = checkpoint_info(t_);
    info.step = ++step_;
    info.init = "random";
    info.config = config_;
    SavedState state = take_snapshot(t_, snapshot);
    const Event copied = state.copied;
    writer_.start(info, std::move(state), {});
    upcycle::finish(copied);
  }

  void finish() {
    writer_.finish();
    clear();
  }

  // Removing older steps is not part of any figure.
  void clear() {
    if (world().rank() == 0) remove_old_steps(run_, 1);
    world().barrier();
  }

  // Files of the same sizes, written in blocks, each synced, and their folder.
  void raw(Measured& m, const std::vector<double>& sizes) {
    const std::string folder = run_ + "/raw";
    if (block_.empty()) {
      block_.resize(std::size_t{8} << 20);
      for (std::size_t i = 0; i < block_.size(); ++i) block_[i] = static_cast<char>(i * 2654435761u >> 13);
    }
    if (world().rank() == 0) make_folder(folder);
    std::optional<std::string> failure;
    time(m.raw, [&] {
      try {
        for (std::size_t i = 0; i < sizes.size(); ++i) {
          FileDescriptor file = create_file(fmt::format("{}/{}_{}", folder, world().rank(), i));
          const auto size = static_cast<std::uint64_t>(sizes[i]);
          for (std::uint64_t at = 0; at < size; at += block_.size())
            file.write_at(at, block_.data(), std::min<std::uint64_t>(block_.size(), size - at));
          file.sync();
          file.close_checked();
        }
        fsync_directory(folder);
      } catch (const std::exception& e) {
        failure = plain_text(e.what());
      }
    });
    if (const auto bad = first_failure(world(), failure)) throw SaveFailed(*bad);
    if (world().rank() == 0) remove_tree(folder);
    world().barrier();
  }

  Trainer& t_;
  std::string config_, run_;
  std::int64_t step_ = 0;
  std::vector<char> block_;
  std::vector<Snapshot> snapshots_;  // before the writer, which may still read them
  CheckpointWriter writer_{run_, *t_.mesh->world, 0};
};

void print_text(const Measured& m, std::int64_t repeats, int ranks) {
  const double sync = m.synchronous.median();
  const auto line = [&](const char* what, const Times& times, double bytes, const char* about) {
    const auto [least, most] = std::minmax_element(times.all.begin(), times.all.end());
    fmt::print("{:<36} {:>9.4f} s ({:.4f} to {:.4f}), {:>6.2f} % of the first{}{}\n", what, times.median(), *least,
               *most, 100 * times.median() / sync,
               bytes > 0 ? fmt::format(", {:.0f} MB/s", bytes / times.median() / 1e6) : "", about);
  };
  fmt::print("{:.1f} MB in the files of {} rank{}; medians of {}\n", m.bytes / 1e6, ranks, ranks > 1 ? "s" : "",
             repeats);
  line("a save that training waits for", m.synchronous, m.bytes, "");
  line("plain writes of the same bytes", m.raw, m.bytes, ": written and synced, no hash");
  line("stall of a save in the background", m.stall, m.largest_copy, " copied by a rank");
  line("publishing it, once written", m.publishing, 0, "");
  line("a second save at once, max_pending 1", m.second_of_one, 0, "");
  line("a second save at once, max_pending 2", m.second_of_two, 0, "");
  line("resuming", m.restore, m.bytes, ", hashed first");
}

nlohmann::ordered_json as_json(const Measured& m, std::int64_t repeats, int ranks) {
  const double sync = m.synchronous.median();
  return {{"bytes", m.bytes},
          {"copied_bytes", m.largest_copy},
          {"ranks", ranks},
          {"repeats", repeats},
          {"synchronous_s", sync},
          {"synchronous_bytes_per_s", m.bytes / sync},
          {"raw_s", m.raw.median()},
          {"raw_bytes_per_s", m.bytes / m.raw.median()},
          {"stall_s", m.stall.median()},
          {"stall_of_synchronous", m.stall.median() / sync},
          {"publish_s", m.publishing.median()},
          {"second_save_stall_s",
           {{"max_pending_1", m.second_of_one.median()}, {"max_pending_2", m.second_of_two.median()}}},
          {"restore_s", m.restore.median()},
          {"restore_bytes_per_s", m.bytes / m.restore.median()}};
}

int measure_saves(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
                  const std::string& folder, std::int64_t repeats, bool json) {
  const Start start = agree_on_start(session, "bench checkpoint", [&] {
    Config c = config_to_measure(file, overrides, 1);
    c.checkpoint.dir = folder + "/" + kRun;
    c.checkpoint.max_pending = kSnapshots;
    return c;
  });
  const Config& c = start.config;
  const Backend backend = make_backend(session, c);
  const Mesh mesh = make_backend_mesh(backend, session, start.layout);
  Communicator& world = *mesh.world;
  agree_or_throw(world, [&] { check_fits_machine(backend, plan_trainer(c, mesh, *backend.ops)); });
  agree_or_throw(world, [&] {
    if (session.rank() != 0) return;
    if (!fs::is_directory(folder))
      input_error("command line: --folder: found no folder {}, expected one of the file system to measure", folder);
    if (fs::exists(c.checkpoint.dir))
      input_error("command line: --folder: found {}, which this command makes; remove what an earlier one left",
                  c.checkpoint.dir);
  });
  const Scratch scratch{c.checkpoint.dir, session.rank() == 0};
  Trainer t;
  agree_or_throw(world, [&] {
    t = make_trainer(c, mesh, *backend.device, *backend.stream, *backend.ops, backend.host_ops.get());
  });
  initialize_trainer(t, static_cast<std::uint64_t>(c.seed));
  // Moments that no step has touched are not in memory yet: their copy would be no measure.
  const StepResult step = train_step(t, random_sequences(c.model.vocab_size));
  UPCYCLE_CHECK(step.skipped == Skipped::No, "loss {} and gradient norm {}: the step was skipped", step.loss,
                step.grad_norm);
  backend.stream->synchronize();
  Measured m;
  std::optional<std::string> failure;
  try {
    m = SaveBench(t, c, c.checkpoint.dir).measure(repeats);
  } catch (const SaveFailed& e) {  // on all ranks
    failure = e.what();
  }
  agree_or_throw(world, [&] {
    if (failure) input_error("{}; make room in {}, or name another folder with --folder", *failure, folder);
  });
  if (session.rank() != 0) return 0;
  if (json)
    fmt::print("{}\n", as_json(m, repeats, session.size()).dump());
  else
    print_text(m, repeats, session.size());
  return 0;
}

}  // namespace

int bench_checkpoint(const Arguments& arguments) {
  std::string file, folder = ".";
  std::int64_t repeats = 5;
  bool json = false;
  std::vector<std::string> overrides;
  Options options("bench checkpoint",
                  "What saving costs a training run, and resuming, on the file system of a folder.");
  options.positional("config", file, "JSON config, as for train: the model, types, layout and batch of one step",
                     Need::Optional);
  options.option("--folder", folder, "where to write; removed at the end");
  options.option("--repeats", repeats, "of each measurement");
  options.flag("--json", json, "print one JSON object: synchronous_s, raw_s, stall_s and more");
  options.config_overrides(overrides);
  options.example("upcycle bench checkpoint launch/configs/bench_moe.json --folder=/tmp",
                  "saving and resuming 155 M parameters beside plain writes of the same bytes");
  options.example("launch/run_local.sh -n 2 bench checkpoint launch/configs/bench_moe.json --parallel.ep=2 --json",
                  "the same of two ranks that write at once");
  if (!options.parse(arguments)) return 0;
  if (repeats < 1) input_error("command line: --repeats: found {}, expected at least 1", repeats);
  return run_with_ranks(
      [&](const MpiSession& session) { return measure_saves(session, file, overrides, folder, repeats, json); });
}

}  // namespace upcycle
