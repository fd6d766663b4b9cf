#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/files.h"
#include "launch/study/collect.h"
#include "launch/study/launcher.h"

namespace upcycle {

// One run that this driver works on: its training, then the commands that measure it, then measures.json. Each is a
// process of its own. What an earlier driver has done of it is not done again.
class ActiveRun {
 public:
  // `claim` keeps other drivers from it. `slot`: of the launch.at_once.
  ActiveRun(const Study& study, const Launcher& launcher, StudyRun run, FolderLock claim, std::int64_t slot);

  enum class State { Working, Done, Failed, Stopped };
  State poll();        // starts what comes next; to be called again and again
  void ask_to_stop();  // the trainer saves and ends; poll then says Stopped

  const StudyRun& run() const { return run_; }
  std::int64_t slot() const { return slot_; }
  const std::string& error() const { return error_; }  // of a failed one
  double seconds() const;                              // since it was created
  double seconds_measuring() const;                    // of them, after training

 private:
  State go_on();
  State ended(int code);
  void start_training();
  bool start_measuring();
  void start(Command command);
  void finish();

  const Study& study_;
  const Launcher& launcher_;
  StudyRun run_;
  FolderLock claim_;
  std::int64_t slot_;
  std::string folder_, error_;
  std::unique_ptr<Child> child_;
  std::uint64_t log_begin_ = 0;
  bool training_ = false, trained_ = false, stopping_ = false;
  std::optional<std::vector<MeasureCommand>> measures_;  // once it is trained; `next_` is under way or comes next
  std::size_t next_ = 0;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), trained_at_{}, asked_{};
};

}  // namespace upcycle
