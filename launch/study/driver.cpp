#include "launch/study/driver.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "data/files.h"
#include "launch/stop_signals.h"
#include "launch/study/active_run.h"
#include "launch/study/disk_space.h"
#include "launch/study/progress.h"
#include "launch/study/rates.h"
#include "launch/study/run_folder.h"
#include "launch/study/run_start.h"
#include "launch/study/serving_costs.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using State = RunStates::State;

constexpr auto kPoll = std::chrono::milliseconds(10);
constexpr double kLookAgain = 1;  // seconds between looks at what other drivers have done
// A trainer that somebody else stops so often is not started again.
constexpr int kMostStops = 5;

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

struct Stopped {};

class Driver {
 public:
  Driver(const Study& study, const StudyProgram& program)
      : study_(study),
        program_(program),
        launcher_{program.binary, study.launch},
        states_(study, program.known, [this](const std::string& size, const std::string& arm) {
          const bool dense = arm.empty() || study_.arm(arm).from == StartsFrom::Dense;
          const auto rate = rates_.find({size, dense ? "" : arm});
          return rate == rates_.end() ? std::nullopt : std::optional<double>(rate->second.tokens_per_s);
        }) {}

  int run() {
    make_folder(study_.output + "/runs");
    make_folder(study_.output + "/locks");
    try {
      if (study_.match == Match::WallTime || study_.serving.measure) time_training();
      states_.refresh();
      introduce();
      train_all();
      return finish();
    } catch (const Stopped&) {
      stop_all();
      console_.say("stopped by a signal: the same command goes on from here");
      return kStoppedBySignal;
    }
  }

 private:
  void pause(std::chrono::milliseconds time = kPoll) const {
    if (stop_asked()) throw Stopped{};
    std::this_thread::sleep_for(time);
    if (stop_asked()) throw Stopped{};
  }

  FolderLock wait_for_lock(const std::string& name, const char* what) {
    const std::string folder = lock_folder(study_, name);
    make_folder(folder);
    for (bool said = false;;) {
      if (std::optional<FolderLock> lock = FolderLock::try_lock(folder)) return std::move(*lock);
      if (!std::exchange(said, true)) console_.say(fmt::format("another driver {}: waiting for it", what));
      pause(std::chrono::milliseconds(200));
    }
  }

  // Runs one of our commands to its end, while no run is under way, and reads the object that it prints.
  Json json_of(const std::vector<std::string>& arguments, bool over_ranks, const std::string& device) {
    Launcher alone = launcher_;
    alone.launch.at_once = 1;
    Command c = over_ranks ? command_on_ranks(alone, arguments, device, 0) : command_alone(alone, arguments);
    c.log = study_.output + "/compare.log";
    c.output = study_.output + "/compare.out";
    const std::uint64_t begin = fs::exists(c.log) ? fs::file_size(c.log) : 0;
    Child child(c);
    std::optional<int> code;
    while (!(code = child.ended())) pause();
    if (*code != 0) throw Error(last_error(c.log, begin, *code));
    Json j = Json::parse(read_text(c.output, std::size_t{1} << 28), nullptr, false);
    if (!j.is_object()) throw Error(fmt::format("{}: printed no JSON object", command_line(arguments)));
    return j;
  }

  // Tokens/s of each model, one after the other, while nothing else runs: for equal wall time, and as what training
  // costs beside serving that is measured here.
  void time_training() {
    const FolderLock lock = wait_for_lock("rates", "times the training");
    rates_ = read_rates(study_);
    for (const StudySize& size : study_.sizes) {
      std::vector<const StudyArm*> arms = {nullptr};
      for (const StudyArm& arm : study_.arms)
        if (arm.from != StartsFrom::Dense) arms.push_back(&arm);
      for (const StudyArm* arm : arms) {
        const std::string name = arm == nullptr ? "" : arm->name;
        if (rates_.contains({size.name, name})) continue;
        const std::string file =
            fmt::format("{}/rates/{}-{}.json", study_.output, size.name, name.empty() ? "dense" : name);
        make_folder(parent_folder(file));
        const std::string config = config_to_time(study_, size, arm);
        write_text_atomic(file, config);
        const Json timed = json_of({"bench", "step", file, "--json"}, true, Json::parse(config).value("device", "cpu"));
        const TrainingRate rate{timed.at("tokens_per_s").get<double>(), study_.launch.ranks};
        rates_[{size.name, name}] = rate;
        write_rates(study_, rates_);
        console_.say(fmt::format("timed    {} {}: {:.0f} tokens/s", size.name, name.empty() ? "dense" : name,
                                 rate.tokens_per_s));
      }
    }
  }

  // Those that this start may still do: what failed is tried again by the next one.
  std::vector<const StudyRun*> to_do() const {
    std::vector<const StudyRun*> runs;
    for (const StudyRun& run : states_.expected()) {
      const State state = states_.has(run.name) ? states_.state(run.name) : State::Waiting;
      if (state != State::Done && state != State::Failed && state != State::Missing) runs.push_back(&run);
    }
    return runs;
  }

  // "12 of 45 runs, 1 failed, 01:02:03 left"
  std::string where_it_stands() const {
    std::size_t done = 0, failed = 0;
    for (const StudyRun& run : states_.runs()) {
      done += states_.state(run.name) == State::Done ? 1 : 0;
      failed += states_.state(run.name) == State::Failed ? 1 : 0;
    }
    const std::optional<double> left = time_left();
    return fmt::format("{} of {} runs{}, {}", done, states_.expected().size(),
                       failed > 0 ? fmt::format(", {} failed", failed) : "",
                       left ? duration_text(*left) + " left" : "time left not known yet");
  }

  void introduce() {
    double flops = 0;
    const std::vector<const StudyRun*> left = to_do();
    for (const StudyRun* run : left) flops += run->own_flops;
    for (const StudyRun& run : states_.runs())
      if (states_.state(run.name) == State::Done) pace_.saw(run, states_.measures(run.name));
    const double bytes = bytes_to_write(study_, left);
    console_.say(fmt::format("study {}: {} runs, {} to do: {:.3g} FLOPs, at most {} on disk at a time; in {}",
                             study_.name, states_.expected().size(), left.size(), flops, bytes_text(bytes),
                             study_.output));
    check_disk(study_, bytes);
  }

  void train_all() {
    Clock::time_point looked = Clock::now();
    for (bool look = true;;) {
      if (stop_asked()) throw Stopped{};
      if (look || since(looked) > kLookAgain) {
        states_.refresh();
        if (!start_runs()) return;
        looked = Clock::now();
        show_status();
      }
      look = poll_active();
      std::this_thread::sleep_for(kPoll);
    }
  }

  bool is_active(const std::string& name) const {
    return std::ranges::any_of(active_, [&](const auto& a) { return a->run().name == name; });
  }

  // Fills the free slots with runs that can be started and that no other driver has. False where nothing is under way
  // and nothing is left to start.
  bool start_runs() {
    if (!free_slot()) return true;  // whom the other runs belong to is looked at when one of ours ends
    held_ = 0;
    bool failed = false;
    for (const StudyRun& run : states_.runs()) {
      if (!free_slot()) break;
      if (states_.state(run.name) != State::Ready || is_active(run.name)) continue;
      try {
        if (!start(run)) ++held_;
      } catch (const Error& e) {  // such as a full disk
        fail(run, e.what());
        failed = true;
      }
    }
    return failed || held_ > 0 || !active_.empty();
  }

  // False where another driver has the run, or has settled it a moment ago.
  bool start(const StudyRun& run) {
    const std::string folder = lock_folder(study_, run.name);
    make_folder(folder);
    std::optional<FolderLock> claim = FolderLock::try_lock(folder);
    if (!claim) return false;
    if (states_.look_at(run) != State::Ready) return false;
    active_.push_back(std::make_unique<ActiveRun>(study_, launcher_, run, std::move(*claim), *free_slot()));
    console_.say(fmt::format("started  {}", run.name));
    return true;
  }

  std::optional<std::int64_t> free_slot() const {
    std::set<std::int64_t> used;
    for (const auto& a : active_) used.insert(a->slot());
    for (std::int64_t slot = 0; slot < study_.launch.at_once; ++slot)
      if (!used.contains(slot)) return slot;
    return {};
  }

  // Whether one of ours has ended.
  bool poll_active() {
    std::vector<std::pair<std::unique_ptr<ActiveRun>, ActiveRun::State>> ended;
    for (auto& active : active_)
      if (const ActiveRun::State state = active->poll(); state != ActiveRun::State::Working)
        ended.emplace_back(std::move(active), state);
    std::erase(active_, nullptr);
    for (const auto& [active, state] : ended) settle(*active, state);
    return !ended.empty();
  }

  void settle(const ActiveRun& ended, ActiveRun::State state) {
    const StudyRun& run = ended.run();
    if (state == ActiveRun::State::Failed) return fail(run, ended.error());
    if (state == ActiveRun::State::Stopped) {
      // Not by us: before a pre-emption SLURM may signal only the runs of its job.
      const bool asked = stopping_ || stop_asked();
      if (!asked && std::getenv("SLURM_JOB_ID") != nullptr) throw Stopped{};
      if (!asked && ++stops_[run.name] > kMostStops) fail(run, "stopped by a signal again and again");
      return;
    }
    states_.refresh();
    if (states_.state(run.name) != State::Done) return fail(run, "its measures.json is not there any more");
    const RunMeasures& m = states_.measures(run.name);
    pace_.saw(run, m);
    pace_.saw_measuring(ended.seconds_measuring());
    std::string loss;
    for (const SetMeasures& set : m.sets)
      loss += fmt::format(", loss on {} {:.4f}", set.name, mean_loss(set, Half::Reported));
    console_.say(
        fmt::format("done     {} in {}{}; {}", run.name, duration_text(ended.seconds()), loss, where_it_stands()));
  }

  void fail(const StudyRun& run, const std::string& error) {
    states_.failed(run.name, error);
    console_.say(fmt::format("FAILED   {}: {} ({}/train.log)", run.name, error, run_folder(study_, run.name)));
  }

  // Of what a run that is under way adds to the one that it goes on from.
  double share_done(const StudyRun& run) const {
    const double share = share_trained(run_folder(study_, run.name) + "/metrics.jsonl", run.tokens);
    const double before = run.flops > 0 ? 1 - run.own_flops / run.flops : 0;
    return std::clamp((share - before) / (1 - before), 0.0, 1.0);
  }

  // Of the whole study, if the drivers that work on it now go on.
  std::optional<double> time_left() const {
    double seconds = 0;
    for (const StudyRun* run : to_do()) {
      const std::optional<double> whole = pace_.seconds_of(*run);
      if (!whole) return std::nullopt;
      seconds += *whole * (is_active(run->name) ? 1 - share_done(*run) : 1);
    }
    return seconds / static_cast<double>(study_.launch.at_once + held_);
  }

  void show_status() {
    std::string running;
    for (const auto& a : active_) running += fmt::format("  {} {:.0f} %", a->run().name, 100 * share_done(a->run()));
    console_.status(fmt::format("{}{}{}", where_it_stands(), running,
                                held_ > 0 ? fmt::format("  {} by other drivers", held_) : ""));
  }

  void stop_all() {
    stopping_ = true;
    console_.status("");
    if (!active_.empty()) console_.say(fmt::format("stopping {} runs: each saves first", active_.size()));
    for (const auto& a : active_) a->ask_to_stop();
    while (!active_.empty()) {
      poll_active();
      std::this_thread::sleep_for(kPoll);
    }
  }

  // A report that another driver wrote while this one was at work, of all that is there now.
  bool is_written() const {
    const std::string report = study_.output + "/report.json";
    if (!fs::exists(report)) return false;
    const fs::file_time_type written = fs::last_write_time(report);
    if (written < started_) return false;
    for (const StudyRun& run : states_.runs())
      for (const char* name : {"/measures.json", "/failed.json"})
        if (const std::string path = run_folder(study_, run.name) + name;
            fs::exists(path) && fs::last_write_time(path) > written)
          return false;
    return true;
  }

  // Trains it in a folder of its own, where one that goes on from another needs a copy of that.
  std::string command_to_repeat(const StudyRun& run) const {
    const std::string all = study_.output + "/again", mine = all + "/" + run.name;
    const std::string copy = run.continues.empty()
                                 ? ""
                                 : command_line({"mkdir", "-p", all}) + " && " +
                                       command_line({"cp", "-rT", run_folder(study_, run.continues), mine}) + " && ";
    return copy + command_line(words_on_ranks(
                      {"upcycle", study_.launch},
                      {"train", run_folder(study_, run.name) + "/config.json", "--checkpoint.dir=" + mine}));
  }

  int finish() {
    console_.status("");
    const FolderLock lock = wait_for_lock("report", "writes the report");
    const std::vector<StudyResult> results =
        states_.results([this](const StudyRun& run) { return command_to_repeat(run); });
    if (!is_written()) {
      std::vector<std::string> problems;
      const std::vector<ServingResult> serving = serving_costs(
          study_, results,
          [&](const std::vector<std::string>& words, bool over_ranks) {
            console_.say(fmt::format("{}", command_line(words)));
            return json_of(words, over_ranks, results.front().run.config.device);
          },
          problems);
      for (const std::string& problem : problems) log_warn("{}", problem);
      if (const auto note = note_of_machines(study_, results, serving)) problems.push_back(*note);
      program_.report(results, serving, problems);
    }
    const auto broken = std::ranges::count_if(results, [](const StudyResult& r) { return r.status != "done"; });
    console_.say(fmt::format("{}/report.html", study_.output));
    if (broken == 0) return 0;
    console_.say(
        fmt::format("{} of {} runs failed or are missing: the report names them; the same command tries them "
                    "again",
                    broken, results.size()));
    return kStudyIncomplete;
  }

  const Study& study_;
  const StudyProgram& program_;
  Launcher launcher_;
  TrainingRates rates_;
  RunStates states_;
  Pace pace_;
  Console console_;
  std::vector<std::unique_ptr<ActiveRun>> active_;
  std::int64_t held_ = 0;  // runs that other drivers have
  std::map<std::string, int> stops_;
  bool stopping_ = false;
  fs::file_time_type started_ = fs::file_time_type::clock::now();
};

}  // namespace

int drive_study(const Study& study, const StudyProgram& program) { return Driver(study, program).run(); }

}  // namespace upcycle
