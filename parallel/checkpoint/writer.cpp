#include "parallel/checkpoint/writer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <optional>
#include <sstream>
#include <thread>

#include "core/check.h"
#include "core/error.h"
#include "core/log.h"
#include "core/plain_text.h"
#include "data/files.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/checkpoint/step_counts.h"
#include "parallel/comm/agree.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

// Names hold no line breaks (is_plain_name refuses them on reading, make_travel_names on writing).
std::string entry_lines(const std::vector<Checkpoint::FileEntry>& entries) {
  std::string text;
  for (const Checkpoint::FileEntry& e : entries) text += fmt::format("{} {} {}\n", e.bytes, e.hash, e.name);
  return text;
}

std::vector<Checkpoint::FileEntry> parse_entry_lines(const std::string& text) {
  std::vector<Checkpoint::FileEntry> entries;
  std::istringstream in(text);
  Checkpoint::FileEntry e;
  while (in >> e.bytes >> e.hash && in.get() == ' ' && std::getline(in, e.name)) entries.push_back(e);
  UPCYCLE_CHECK(in.eof(), "file entries that can not be read: {}", text);
  return entries;
}

void check_pieces(const ParamTable& global, const std::vector<SavedPiece>& pieces) {
  std::map<std::string, const ParamRow*> rows;
  for (const ParamRow& row : global.rows) rows[row.name] = &row;
  for (const SavedPiece& p : pieces) {
    const auto row = rows.find(p.tensor);
    UPCYCLE_CHECK(row != rows.end(), "{} is no parameter of the model", p.tensor);
    UPCYCLE_CHECK(row->second->rows == p.global_rows && row->second->columns == p.global_columns &&
                      row->second->is_vector == p.is_vector,
                  "{}: ({}, {}) is not the model's shape", p.tensor, p.global_rows, p.global_columns);
  }
}

void check_travel(const CheckpointInfo& info, const std::vector<TravellingFile>& travel) {
  bool tokenizer = info.tokenizer.empty();
  for (const auto& [name, bytes] : travel) {
    UPCYCLE_CHECK(!name.empty() && name.find('\n') == name.npos && name != manifest_name &&
                      rank_of_model_file(name) < 0 && rank_of_optimizer_file(name) < 0,
                  "'{}' can not travel under this name", name);
    tokenizer = tokenizer || name == info.tokenizer;
  }
  UPCYCLE_CHECK(tokenizer, "the tokenizer {} is not among the files that travel along", info.tokenizer);
}

// Runs on the I/O thread, which shares it: an unwinding main thread may drop it first.
struct Part {
  std::string folder;  // step_X.tmp
  CheckpointInfo info;
  int rank = 0;
  std::vector<SavedPiece> pieces;
  std::vector<TravellingFile> travel;
  std::vector<Checkpoint::FileEntry> entries;

  void check() const {
    if (rank == 0 && !info.weights_alone) check_publishable(parent_folder(folder), info.step);
  }

  void finish(std::vector<Checkpoint::FileEntry> rank_files) {
    entries = std::move(rank_files);
    if (rank != 0 || travel.empty()) return;
    const auto copied = write_travelling(folder, travel);
    entries.insert(entries.end(), copied.begin(), copied.end());
  }

  // HDF5 keeps a file open that it could not close: emptied, it takes no room.
  void empty_own_files() const {
    std::error_code ignored;
    for (const std::string& name : {model_file_name(rank), optimizer_file_name(rank)})
      if (fs::is_regular_file(folder + "/" + name, ignored)) fs::resize_file(folder + "/" + name, 0, ignored);
  }

  // What this rank may have written; the folder itself is removed with the last rank's files.
  void remove_own_files() {
    std::vector<std::string> names = {model_file_name(rank), optimizer_file_name(rank)};
    if (rank == 0)
      for (const TravellingFile& file : travel) names.push_back(file.name);
    std::error_code ignored;
    for (const std::string& name : names) fs::remove(folder + "/" + name, ignored);
    fs::remove(folder, ignored);
  }
};

}  // namespace

struct CheckpointWriter::Job {
  // On rank 0, of the thread that publishes.
  struct Published {
    std::string failure;   // "": it is published
    bool unclean = false;  // an older step may be half removed
  };
  // A save from start() to its end: it is written, all ranks agree that it is, it is published.
  struct Save {
    std::shared_ptr<Part> part;
    std::future<void> written;
    bool agreed = false;
    std::shared_ptr<Published> published;
    std::future<void> publishing;  // on rank 0, once agreed

    bool is_publishing() const { return publishing.valid(); }
  };
  std::string run_dir;
  Communicator& world;
  const Retention keep;
  std::atomic<bool> keeps_all = false;
  std::optional<FolderLock> lock;
  std::deque<Save> saves;  // oldest first
  bool unclean = false;    // on rank 0: a failed save may have left something
  // On rank 0: each publishing is some seven calls that wait for the disk, and removing an old step many. Not the I/O
  // thread, which may be writing the next save. Last: it uses all other members.
  std::optional<IoThread> publisher;

  Part& oldest() {
    UPCYCLE_CHECK(!saves.empty(), "no checkpoint was started");
    return *saves.front().part;
  }

  // On rank 0, while nothing is being published. What other saves under way write is left, and that of `starting`:
  // other ranks may have begun it, and the other kind of that step too.
  void clean(std::int64_t starting = -1) {
    std::vector<std::string> spared;
    for (const Save& save : saves) {
      if (save.is_publishing()) save.publishing.wait();
      spared.push_back(fs::path(save.part->folder).filename());
    }
    if (starting >= 0)
      for (const auto name : {step_folder_name, model_folder_name}) spared.push_back(name(starting) + ".tmp");
    clean_run_folder(run_dir, spared);
  }

  Manifest gather_manifest(const Part& part) {
    const ParamTable global = make_global_table(part.info.model);
    Manifest m{part.info, parse_entry_lines(world.gather_text(entry_lines(part.entries))), {}};
    for (const ParamRow& row : global.rows) m.tensors.push_back({row.name, row.rows, row.columns, row.is_vector});
    decode_step_counts(global, world.gather_text(encode_step_counts(global, part.info.optimizer_steps)),
                       m.info.optimizer_steps);
    return m;
  }

  static std::string what(const Part& part) {
    return fmt::format("{} of step {}", part.info.weights_alone ? "weights alone" : "checkpoint", part.info.step);
  }

  // Of the oldest. All ranks have ended writing it: they agreed on the message.
  [[noreturn]] void fail(const std::string& message) {
    oldest().empty_own_files();
    saves.pop_front();
    world.barrier();
    if (world.rank() == 0) {
      try {
        clean();
        unclean = false;
      } catch (const std::exception& e) {
        unclean = true;
        log_warn("{}; the next save tries again", plain_text(e.what()));
      }
    }
    world.barrier();  // no rank starts the next save before the folder is gone
    throw SaveFailed(message);
  }

  std::string not_saved(const Part& part, const std::string& why) const {
    return fmt::format("{} was not saved: {}; {}/{} names what it named before", what(part), why, run_dir, latest_name);
  }

  // On the thread that publishes. "": it is.
  std::string publish(const Part& part, const Manifest& manifest) const {
    try {
      (part.info.weights_alone ? publish_model : publish_step)(run_dir, manifest);
      return "";
    } catch (const NotSynced& e) {
      return fmt::format("{} is there, but may be lost in a power cut: {}", what(part), plain_text(e.what()));
    } catch (const std::exception& e) {
      return not_saved(part, plain_text(e.what()));
    }
  }

  // False where something may be left half removed. On the thread that publishes, or while nothing is published.
  bool remove_old() const {
    try {
      if (!keeps_all) remove_old_steps(run_dir, keep);
      return true;
    } catch (const std::exception& e) {
      log_warn("{}; the new checkpoint is saved, old ones stay", plain_text(e.what()));
      return false;
    }
  }

  // The oldest, which this rank has written, or failed to. Collective.
  void agree_on_written() {
    Save& save = saves.front();
    std::optional<std::string> mine;
    try {
      save.written.get();
    } catch (const std::exception& e) {
      const std::string text = plain_text(e.what());
      mine = text.starts_with("rank ") ? text : fmt::format("rank {}: {}", world.rank(), text);
    }
    if (const auto bad = first_failure(world, mine)) fail(not_saved(*save.part, *bad));
    Manifest manifest = gather_manifest(*save.part);
    save.agreed = true;
    if (world.rank() != 0) return;
    save.published = std::make_shared<Published>();
    save.publishing =
        publisher->submit([this, part = save.part, result = save.published, manifest = std::move(manifest)] {
          result->failure = publish(*part, manifest);
          if (result->failure.empty()) result->unclean = !remove_old();
        });
  }

  // The oldest, which rank 0 has published, or failed to. Collective.
  void agree_on_published() {
    Save& save = saves.front();
    std::optional<std::string> failure;
    if (world.rank() == 0) {
      save.publishing.get();
      unclean = unclean || save.published->unclean;
      if (!save.published->failure.empty()) failure = save.published->failure;
    }
    if (const auto bad = first_failure(world, failure)) fail(*bad);
    saves.pop_front();
  }
};

CheckpointWriter::CheckpointWriter(std::string run_dir, Communicator& world, const Retention& keep)
    : job_(new Job{std::move(run_dir), world, keep, false, {}, {}, false, {}}) {
  if (world.rank() == 0) job_->publisher.emplace();
  agree_or_throw(world, [this] {
    if (job_->world.rank() != 0) return;
    try {
      make_folder(job_->run_dir);
      job_->lock.emplace(job_->run_dir);
      clean_run_folder(job_->run_dir);
    } catch (const Error& e) {  // a full disk: nothing is lost yet
      input_error("{}; make room, or choose another folder", plain_text(e.what()));
    }
  });
}

CheckpointWriter::~CheckpointWriter() {
  for (Job::Save& save : job_->saves) {
    if (save.written.valid()) save.written.wait();  // the snapshot is the caller's memory
    if (save.is_publishing()) save.publishing.wait();
    save.part->remove_own_files();
  }
}

void CheckpointWriter::start(const CheckpointInfo& info, SavedState state, const std::vector<TravellingFile>& travel) {
  check_pieces(make_global_table(info.model), state.pieces);
  check_travel(info, travel);
  auto part = std::make_shared<Part>();
  part->folder = job_->run_dir + "/" + (info.weights_alone ? model_folder_name : step_folder_name)(info.step) + ".tmp";
  for (const Job::Save& save : job_->saves)
    UPCYCLE_CHECK(save.part->folder != part->folder, "{} is still being written", part->folder);
  part->info = info;
  part->rank = job_->world.rank();
  part->pieces = std::move(state.pieces);
  part->travel = travel;
  if (job_->unclean) {
    try {
      job_->clean(info.step);
    } catch (const std::exception& e) {
      log_warn("{}", plain_text(e.what()));
    }
  }
  Job::Save& save = job_->saves.emplace_back();
  save.part = part;
  if (!state.read) {
    save.written = hdf5_thread().submit([part, copied = state.copied] {
      upcycle::finish(copied);
      part->check();
      part->finish(write_rank_files(part->folder, part->info.step, part->rank, part->pieces));
    });
    return;
  }
  FinishFiles finish_files;
  try {
    part->check();
    finish_files = stream_values(part->folder, part->info.step, part->rank, part->pieces, state.read, state.buffers);
  } catch (...) {  // finish() agrees on it with the other ranks
    std::promise<void> failed;
    failed.set_exception(std::current_exception());
    save.written = failed.get_future();
    return;
  }
  save.written = hdf5_thread().submit([part, finish_files] { part->finish(finish_files()); });
}

std::int64_t CheckpointWriter::pending() const { return static_cast<std::int64_t>(job_->saves.size()); }
const CheckpointInfo& CheckpointWriter::oldest() const { return job_->oldest().info; }

bool CheckpointWriter::ready() const {
  if (!busy()) return true;
  const Job::Save& save = job_->saves.front();
  return save.agreed ? !save.is_publishing() || finished(save.publishing) : finished(save.written);
}

void CheckpointWriter::keep_all() { job_->keeps_all = true; }

bool CheckpointWriter::advance() {
  (void)job_->oldest();
  if (!job_->saves.front().agreed) {
    job_->agree_on_written();
    return false;
  }
  job_->agree_on_published();
  return true;
}

void CheckpointWriter::finish() {
  do {
    // Disks are not equally fast. Ranks synchronize repeatedly while some still write, so that none is taken for lost.
    while (job_->world.max_of(ready() ? 0 : 1) > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  } while (!advance());
}

void CheckpointWriter::remove_old() {
  if (job_->world.rank() == 0 && !job_->remove_old()) job_->unclean = true;
}

}  // namespace upcycle
