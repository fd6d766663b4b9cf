#include <csignal>

#include "core/error.h"
#include "launch/study/collect.h"
#include "launch/study/disk_space.h"
#include "launch/study/launcher.h"
#include "launch/study/progress.h"
#include "launch/study/rates.h"
#include "launch/study/run_folder.h"
#include "launch/study/serving_costs.h"
#include "tests/launch/fake_study.h"

namespace upcycle {
namespace {

int finish(const Command& c) {
  Child child(c);
  while (!child.ended()) ::usleep(1000);
  return *child.ended();
}

TEST(Process, OutputGoesToItsFilesAndTheCodeIsTheProgramsOwn) {
  const TemporaryFolder folder;
  Command c{{"sh", "-c", "echo $X; echo error >&2; exit 7"}, {{"X", "out"}}, folder.file("log"), folder.file("out")};
  EXPECT_EQ(finish(c), 7);
  EXPECT_EQ(folder.read("out"), "out\n");
  c.words = {"sh", "-c", "echo both; kill -9 $$"};
  c.output = "";
  EXPECT_EQ(finish(c), 128 + SIGKILL);
  EXPECT_EQ(folder.read("log"), "error\nboth\n");  // appended
  c.words = {"no-such-program"};
  EXPECT_EQ(finish(c), 127);
  EXPECT_EQ(last_error(folder.file("log"), 0, 127), "cannot start no-such-program");
  EXPECT_EQ(last_error(folder.file("log"), std::filesystem::file_size(folder.file("log")), 137),
            "ended by signal 9 (Killed)");
}

TEST(Process, CommandLinesAreQuotedForAShell) {
  EXPECT_EQ(command_line({"upcycle", "train", "a b", "it's", "--x=1", ""}),
            R"(upcycle train 'a b' 'it'\''s' --x=1 '')");
}

TEST(Launcher, StartsRanksAsTheStudySays) {
  Launcher l{"upcycle", {}};
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_on_ranks(l, {"train"}), (Words{"upcycle", "train"}));
  l.launch.command = {"srun", "-n{ranks}"};
  l.launch.ranks = 4;
  EXPECT_EQ(words_on_ranks(l, {"train"}), (Words{"srun", "-n4", "upcycle", "train"}));
  EXPECT_EQ(command_on_ranks(l, {"train"}, "cpu", 0).dies_by, SIGTERM);  // it then ends its ranks
  l.launch.threads = 3;
  l.launch.at_once = 2;
  const Command c = command_on_ranks(l, {"train"}, "cuda", 1);
  EXPECT_EQ(c.environment.at("OMP_NUM_THREADS"), "3");
  const char* given = std::getenv("CUDA_VISIBLE_DEVICES");
  EXPECT_TRUE(given != nullptr || c.environment.at("CUDA_VISIBLE_DEVICES") == "4,5,6,7");
}

TEST(Collect, ExpertsAreThoseOfTheTextThatTheStudyAsksFor) {
  FakeStudy f;
  f.study.valid = {{"new", f.folder.file("new")}, {"old", f.folder.file("old")}};
  for (const char* file : {"new.bin", "old.bin"}) f.folder.write(file, file);
  ASSERT_EQ(f.drive(), 0);
  const StudyRun run = f.run("s1-lr1", 1, {});
  const std::string folder = run_folder(f.study, run.name);
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/measured"))
    if (const std::string name = entry.path().filename(); name.starts_with("eval_new_"))  // eval_new_SET_ASKED.json
      write_text_atomic(folder + "/measured/experts_" + name.substr(9, 8) + "_00000005_500.json", R"({"layers": []})");
  EXPECT_EQ(collect_measures(f.study, run, folder).experts[0]["trained_tokens"], 500);
  EXPECT_EQ(read_measures(f.study, run, folder)->experts.size(), 1u);
  f.study.new_set = "old";
  EXPECT_TRUE(read_measures(f.study, run, folder)->experts.is_null());
}

TEST(Rates, TheBestOfASweepIsTheLeastMeanLoss) {
  const FakeStudy f;
  std::vector<StudyRun> runs;
  std::map<std::string, Settled> settled;
  const auto add = [&](const std::string& name, double lr, double budget, double loss, bool done = true) {
    runs.push_back(f.run(name, lr, {}));
    runs.back().cell.budget = budget;
    runs.back().sweep = true;
    settled[name] = {done, loss};
  };
  add("a", 1, 0.5, 3.0);
  add("b", 2, 0.5, 2.9);
  add("c", 3, 0.5, 2.0, false);  // failed: the worst
  add("other", 1, 1, 1.0);
  const auto best = [&](double budget) { return chosen_rate(f.study.arms[0], {"small", 20, budget}, runs, settled); };
  EXPECT_EQ(best(0.5), 2);
  EXPECT_EQ(best(1), 1);
  settled.erase("a");
  EXPECT_EQ(best(0.5), std::nullopt);  // not all have ended
  EXPECT_EQ(best(7), std::nullopt);
}

TEST(Rates, AreKept) {
  FakeStudy f;
  EXPECT_TRUE(read_rates(f.study).empty());
  write_rates(f.study, {{{"small", ""}, {100.5, 2}}, {{"small", "moe"}, {50, 1}}});
  const TrainingRates rates = read_rates(f.study);
  EXPECT_EQ(rates.at({"small", ""}).tokens_per_s, 100.5);
  EXPECT_EQ(rates.at({"small", ""}).ranks, 2);
  EXPECT_EQ(rates.at({"small", "moe"}).tokens_per_s, 50);
  f.folder.write("out/rates.json", "{}");
  EXPECT_THROW(read_rates(f.study), InputError);
}

TEST(Pace, GoesByTheNearestKindOfRunSeen) {
  const FakeStudy f;
  Pace pace;
  StudyRun run = f.run("r", 1, {}), other = run;
  other.arm = "moe";
  EXPECT_EQ(pace.seconds_of(run), std::nullopt);
  RunMeasures m;
  m.wall_seconds = 10;
  pace.saw(other, m);
  EXPECT_EQ(pace.seconds_of(run), 10);
  m.wall_seconds = 4;
  pace.saw(run, m);
  pace.saw_measuring(2);
  EXPECT_EQ(pace.seconds_of(run), 6);
  EXPECT_EQ(pace.seconds_of(other), 12);
  EXPECT_EQ(duration_text(*pace.seconds_of(other)), "00:00:12");
  EXPECT_EQ(duration_text(2 * 86400 + 3 * 3600 + 4 * 60 + 5), "2 days 03:04:05");
}

TEST(DiskSpace, OfAFinishedRunOneCheckpointIsKept) {
  const FakeStudy f;
  StudyRun run = f.run("r", 1, {}), moe = run;
  run.config.checkpoint.every = moe.config.checkpoint.every = 1;  // of 5 steps
  run.config.checkpoint.keep = 1;
  moe.arm = "moe";
  const double one = static_cast<double>(count_parameters(run.config.model).total) * 3 * sizeof(float);
  EXPECT_EQ(bytes_to_write(f.study, {&run, &run}), 3 * one);  // the next is written before the last is removed
  EXPECT_EQ(bytes_to_write(f.study, {&run, &moe}), 6 * one);
  check_disk(f.study, 1);
  try {
    check_disk(f.study, 0x1p70);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_TRUE(contains(e.what(), "study.json: output: found "));
  }
}

TEST(ServingCosts, AreOfWhatAModelDoesWhenThereIsAlwaysANextRequest) {
  const Json served{{"layout", {{"ranks", 2}}},
                    {"max_rate", 3.0},
                    {"sweep_ended", nullptr},
                    {"one_request_s", 0.25},
                    {"load", {{{"rate", 2.0}, {"tokens_per_s", 60}, {"mean_e2el_ms", 500}, {"sustained", true}}}},
                    {"capacity", {{"request_throughput", 5.0}, {"tokens_per_s", 150}}}};
  const Json report{{"setup", {{"predicted", true}, {"machine", "h100"}}}, {"model", served}};
  const ServingResult r = serving_result(report, "model", "small", "moe");
  EXPECT_EQ(r.source, "predicted");
  EXPECT_EQ(r.machine, "h100");
  EXPECT_EQ(r.devices, 2);
  EXPECT_EQ(r.requests_per_s, 5);  // the rates of the sweep are far apart
  EXPECT_EQ(r.tokens_per_s, 150);
  EXPECT_EQ(r.latency_alone, 0.25);
  EXPECT_EQ(r.curve[0]["latency"], 0.5);
}

}  // namespace
}  // namespace upcycle
