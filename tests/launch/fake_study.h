#pragma once
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "data/files.h"
#include "launch/stop_signals.h"
#include "launch/study/driver.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {

// A study whose runs are trained by a shell script in place of the program: five steps, of which each is saved, and a
// held-out loss that depends on the learning rate alone. A file OUTPUT/broken-NAME makes that run end in an error.
struct FakeStudy {
  TemporaryFolder folder;
  Study study;
  StudyProgram program;

  explicit FakeStudy(const std::string& pause = "0.01") {
    program.binary = folder.write("upcycle", R"(#!/bin/sh
folder=$2
[ "$1" = train ] && folder=${2%/config.json}
name=${folder##*/} root=${folder%/runs/*}
last=$(sed -n '1s/step_0*//p' "$folder/latest" 2>/dev/null)
case $1 in
train)
  exec 9>>"$folder/.lock"
  flock -n 9 || { echo "$name" >>"$root/overlap"; exit 1; }
  stop=; trap 'stop=1' USR1
  echo "+ $name from ${last:-0}" >>"$root/calls"
  if [ -e "$root/broken-$name" ]; then echo "upcycle: the loss of $name is not finite" >&2; exit 2; fi
  n=${last:-0}
  while [ "$n" -lt 5 ]; do
    n=$((n + 1))
    echo "{\"step\":$n,\"tokens\":$((n * 100)),\"loss\":$((9 - n)),\"tokens_per_s\":100}" >>"$folder/metrics.jsonl"
    mkdir -p "$folder/step_0000000$n"
    echo "$n" >"$folder/step_0000000$n/model"
    echo "step_0000000$n" >"$folder/latest.new" && mv "$folder/latest.new" "$folder/latest"
    sleep )" + pause + R"( 9>&-
    [ -z "$stop" ] || exit 3
  done
  echo "- $name" >>"$root/calls" ;;
inspect) echo "{\"step\":$last,\"tokens\":500,\"parameters\":7,\"active_parameters\":7,\"flops\":1000,\"wall_seconds\":2}" ;;
eval) lr=${name##*lr}; echo "{\"documents\":[[$(((${lr%%-*} - 2) * (${lr%%-*} - 2) + 10)).0,10,20],[5.0,10,null]]}" ;;
cloze) for word; do case $word in --candidates=*) n=${word#*=} ;; esac; done
  echo "{\"candidates\":$n,\"correct\":[1,0,0.5],\"documents\":[0,1,1]}" ;;
*) exit 9 ;;
esac
)");
    std::filesystem::permissions(program.binary, std::filesystem::perms::owner_all);
    study.file = "study.json";
    study.name = "fake";
    study.output = folder.file("out");
    study.valid = {{"new", "data/new"}};
    study.new_set = "new";
    study.cloze.items = 3;
    StudyArm arm;
    arm.name = "cpt";
    arm.learning_rates[""] = {1, 2, 3};
    study.arms = {arm};
    std::filesystem::create_directories(study.output);
    program.known = [this](const ChosenRate& chosen, const MeasuredRate&) { return runs(chosen); };
    program.report = [this](const std::vector<StudyResult>& results, const std::vector<ServingResult>&,
                            const std::vector<std::string>& problems) {
      for (const std::string& problem : problems) append("notes", problem);
      Json report = Json::object();
      for (const StudyResult& r : results) {
        report[r.run.name] = {{"status", r.status}, {"error", r.error}};
        if (r.status == "done") report[r.run.name]["measures"] = to_json(r.measures);
      }
      append("reports", "written");
      write_text_atomic(study.output + "/report.json", report.dump(1));
    };
  }

  void append(const std::string& file, const std::string& line) const {
    std::ofstream(study.output + "/" + file, std::ios::app) << line + "\n";
  }
  std::vector<std::string> lines(const std::string& file) const {
    std::ifstream in(study.output + "/" + file);
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
  Json report() const { return Json::parse(folder.read("out/report.json")); }

  StudyRun run(const std::string& name, double lr, const std::vector<std::string>& needs) const {
    StudyRun r;
    r.name = name;
    r.kind = lr == 0 ? "pretraining" : "arm";
    r.arm = lr == 0 ? "" : "cpt";
    r.cell = {"small", 20, lr == 0 ? 0 : 0.5};
    r.lr = lr;
    r.needs = needs;
    r.tokens = 500;
    ModelConfig& m = r.config.model;
    m.hidden_size = m.intermediate_size = m.vocab_size = 16;
    m.num_hidden_layers = m.num_attention_heads = 1;
    r.config.train.steps = 5;
    r.flops = r.own_flops = 1000;
    r.config_text = Json{{"train", {{"lr", lr}}}, {"checkpoint", {{"dir", study.output + "/runs/" + name}}}}.dump();
    return r;
  }
  // The pretraining, three rates swept, a second seed with the best one, and a branch of a trunk.
  std::vector<StudyRun> runs(const ChosenRate& chosen) const {
    std::vector<StudyRun> all = {run("dense-lr2", 0, {})};
    for (const int lr : {1, 2, 3}) {
      all.push_back(run("s1-lr" + std::to_string(lr), lr, {"dense-lr2"}));
      all.back().sweep = true;
    }
    all.push_back(run("trunk-lr2", 0, {}));
    all.push_back(run("branch-lr2", 0, {"trunk-lr2"}));
    all.back().continues = "trunk-lr2";
    if (const auto lr = chosen(study.arms[0], {"small", 20, 0.5}))
      all.push_back(run("s2-lr" + std::to_string(static_cast<int>(*lr)), *lr, {"dense-lr2"}));
    return all;
  }

  // A driver in a process of its own; what it says goes to OUTPUT/said.
  pid_t start() const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    if (std::freopen((study.output + "/said").c_str(), "a", stderr) == nullptr) ::_exit(99);
    catch_stop_signals();
    try {
      ::_exit(drive_study(study, program));
    } catch (const std::exception& e) {
      append("said", e.what());
      ::_exit(2);
    }
  }
  static int wait(pid_t child) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int drive() const { return wait(start()); }
};

}  // namespace upcycle
