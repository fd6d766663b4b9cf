#include <random>

#include "core/error.h"
#include "launch/study/run_folder.h"
#include "tests/launch/fake_study.h"

namespace upcycle {
namespace {

std::vector<std::string> sorted(std::vector<std::string> texts) {
  std::ranges::sort(texts);
  return texts;
}
const std::vector<std::string> all_runs = {"+ branch-lr2 from 5", "+ dense-lr2 from 0", "+ s1-lr1 from 0",
                                           "+ s1-lr2 from 0",     "+ s1-lr3 from 0",    "+ s2-lr2 from 0",
                                           "+ trunk-lr2 from 0"};
std::vector<std::string> starts(const FakeStudy& f) {
  std::vector<std::string> found;
  for (const std::string& line : f.lines("calls"))
    if (line.starts_with("+")) found.push_back(line);
  return sorted(found);
}

TEST(StudyDriver, DoesEveryRunOnceAndAsManyAtOnceAsAsked) {
  FakeStudy f;
  f.study.launch.at_once = 2;
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(starts(f), all_runs);  // rate 2 of the sweep was the best; the branch went on from the trunk's last step
  int running = 0, most = 0;
  for (const std::string& line : f.lines("calls")) most = std::max(most, running += line.starts_with("+") ? 1 : -1);
  EXPECT_EQ(most, 2);
  const Json report = f.report();
  EXPECT_EQ(report.size(), 7u);
  for (const auto& [name, run] : report.items()) EXPECT_EQ(run["status"], "done") << name;
  const RunMeasures m = measures_from_json(report["s1-lr3"]["measures"], "report");
  EXPECT_EQ(m.sets.at(0).documents.at(0).loss, 11);
  EXPECT_EQ(m.sets[0].documents.at(1).bytes, 0);
  EXPECT_EQ(m.sets[0].cloze, (std::vector<double>{1, 0, 0.5}));
  EXPECT_EQ(m.last_50_loss, 6);
  EXPECT_EQ(f.lines("runs/branch-lr2/metrics.jsonl").size(), 5u);  // the trunk's

  ASSERT_EQ(f.drive(), 0);  // a second time there is nothing to do but the report
  EXPECT_EQ(starts(f), all_runs);
  EXPECT_EQ(f.lines("reports").size(), 2u);
}

TEST(StudyDriver, ABrokenRunStopsOnlyThoseThatNeedIt) {
  FakeStudy f;
  f.append("broken-trunk-lr2", "");
  f.append("broken-s1-lr2", "");
  ASSERT_EQ(f.drive(), kStudyIncomplete);
  Json report = f.report();
  EXPECT_EQ(report["trunk-lr2"]["status"], "failed");
  EXPECT_EQ(report["trunk-lr2"]["error"], "the loss of trunk-lr2 is not finite");
  EXPECT_EQ(report["branch-lr2"]["status"], "missing");
  EXPECT_EQ(report["branch-lr2"]["error"], "needs trunk-lr2, which failed");
  EXPECT_EQ(report["s1-lr2"]["status"], "failed");
  EXPECT_EQ(report["s2-lr1"]["status"], "done");  // a rate that fails is the worst
  const std::size_t before = starts(f).size();
  std::filesystem::remove(f.study.output + "/broken-trunk-lr2");
  std::filesystem::remove(f.study.output + "/broken-s1-lr2");
  ASSERT_EQ(f.drive(), 0);
  report = f.report();
  EXPECT_EQ(report["branch-lr2"]["status"], "done");
  EXPECT_EQ(report["s2-lr2"]["status"], "done");
  EXPECT_EQ(starts(f).size(), before + 4);  // the two that failed, the branch, and the rate that the sweep chooses now
}

TEST(StudyDriver, AllRatesOfASweepFailing) {
  FakeStudy f;
  for (const char* lr : {"1", "2", "3"}) f.append(std::string("broken-s1-lr") + lr, "");
  ASSERT_EQ(f.drive(), kStudyIncomplete);
  EXPECT_EQ(f.report()["s2-lr2"]["error"], "no learning rate of the sweep of cpt could be trained");
}

TEST(StudyDriver, KilledAtRandomMomentsItGoesOnToTheSameReport) {
  FakeStudy quiet, f("0.03");
  quiet.study.launch.at_once = f.study.launch.at_once = 2;
  ASSERT_EQ(quiet.drive(), 0);
  std::mt19937 random(7);
  for (int i = 0; i < 6; ++i) {
    const pid_t driver = f.start();
    ::usleep(20000 + random() % 250000);
    ::kill(driver, SIGKILL);
    FakeStudy::wait(driver);
  }
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(f.report(), quiet.report());
  EXPECT_TRUE(f.lines("overlap").empty());  // no run was trained twice at a time
}

TEST(StudyDriver, TwoDriversShareTheRunsAndWriteOneReport) {
  FakeStudy f("0.03");
  const pid_t a = f.start(), b = f.start();
  EXPECT_EQ(FakeStudy::wait(a), 0);
  EXPECT_EQ(FakeStudy::wait(b), 0);
  EXPECT_EQ(starts(f), all_runs);
  EXPECT_EQ(f.lines("reports").size(), 1u);
  EXPECT_EQ(f.report().size(), 7u);
}

TEST(StudyDriver, ASignalSavesAndTheNextStartGoesOn) {
  FakeStudy f("0.2");
  const pid_t driver = f.start();
  for (int i = 0; i < 500 && f.lines("runs/dense-lr2/metrics.jsonl").size() < 2; ++i) ::usleep(10000);
  ::kill(driver, SIGTERM);
  EXPECT_EQ(FakeStudy::wait(driver), kStoppedBySignal);
  EXPECT_EQ(f.lines("calls").size(), 1u);  // it saved, and did not come to its end
  EXPECT_FALSE(std::filesystem::exists(f.study.output + "/runs/dense-lr2/failed.json"));
  const pid_t again = f.start();
  for (int i = 0; i < 500 && f.lines("calls").size() < 2; ++i) ::usleep(10000);
  EXPECT_NE(f.lines("calls").at(1), "+ dense-lr2 from 0");
  ::kill(again, SIGTERM);
  EXPECT_EQ(FakeStudy::wait(again), kStoppedBySignal);
}

TEST(StudyDriver, OneThatIsKilledTakesItsRunsWithIt) {
  FakeStudy f("5");
  const pid_t driver = f.start();
  for (int i = 0; i < 500 && f.lines("calls").empty(); ++i) ::usleep(10000);
  ASSERT_FALSE(is_free(f.study.output + "/runs/dense-lr2"));
  ::kill(driver, SIGKILL);
  FakeStudy::wait(driver);
  for (int i = 0; i < 200 && !is_free(f.study.output + "/runs/dense-lr2"); ++i) ::usleep(10000);
  EXPECT_TRUE(is_free(f.study.output + "/runs/dense-lr2"));
}

TEST(StudyDriver, AnotherConfigInARunsFolderIsRefusedByItsKey) {
  FakeStudy f;
  ASSERT_EQ(f.drive(), 0);
  StudyRun other = f.run("s1-lr3", 3, {});
  check_same_config(f.study, other);
  Json config = Json::parse(other.config_text);
  config["checkpoint"]["dir"] = "moved";  // where it stands makes no other run of it
  other.config_text = config.dump();
  check_same_config(f.study, other);
  config["train"]["lr"] = 4;
  other.config_text = config.dump();
  try {
    check_same_config(f.study, other);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_TRUE(contains(e.what(), "study.json: train.lr: found 4, expected 3.0 as the run s1-lr3 has it"));
  }
}

// `change` is made to each run that the study knows.
void change_runs(FakeStudy& f, const std::function<void(StudyRun&)>& change) {
  f.program.known = [&f, change](const ChosenRate& chosen, const MeasuredRate&) {
    std::vector<StudyRun> all = f.runs(chosen);
    for (StudyRun& run : all) change(run);
    return all;
  };
}

TEST(StudyDriver, RunsThatStartedFromAnotherModelAreRefusedBeforeAnyWork) {
  FakeStudy f;
  ASSERT_EQ(f.drive(), 0);
  const std::size_t before = f.lines("calls").size();
  change_runs(f, [](StudyRun& run) {
    if (run.name == "dense-lr2") run.config_text = Json{{"train", {{"lr", 9}}}}.dump();
  });
  std::filesystem::remove_all(f.study.output + "/runs/dense-lr2");
  EXPECT_EQ(f.drive(), 2);
  EXPECT_TRUE(contains(f.lines("said").back(),
                       "train.lr of dense-lr2: found 9, expected 0.0 as when the run s1-lr1 was started from it"))
      << f.lines("said").back();
  EXPECT_EQ(f.lines("calls").size(), before);
  change_runs(f, [](StudyRun&) {});  // the same one again: what started from it stays
  EXPECT_EQ(f.drive(), 0);
  EXPECT_EQ(f.lines("calls").size(), before + 2);
}

TEST(StudyDriver, ALoadedModelThatChangedIsRefused) {
  FakeStudy f;
  f.folder.write("model.safetensors", "abc");
  const std::string model = f.folder.file("model");
  std::filesystem::create_directory(model);
  std::filesystem::rename(f.folder.file("model.safetensors"), model + "/model.safetensors");
  change_runs(f, [&](StudyRun& run) { run.config.init.load = model; });
  ASSERT_EQ(f.drive(), 0);
  ASSERT_EQ(f.drive(), 0);
  write_text_atomic(model + "/model.safetensors", "abd");
  EXPECT_EQ(f.drive(), 2);
  EXPECT_TRUE(contains(f.lines("said").back(), model + ": found 1 files, ")) << f.lines("said").back();
  EXPECT_TRUE(contains(f.lines("said").back(), "as when the run dense-lr2 was started")) << f.lines("said").back();
}

TEST(StudyDriver, AskedForAnotherClozeItOnlyMeasuresAgain) {
  FakeStudy f;
  ASSERT_EQ(f.drive(), 0);
  f.study.cloze.context = 32;
  const std::string cloze = f.study.output + "/runs/s1-lr1/measured";
  const auto files = [&] { return std::distance(std::filesystem::directory_iterator(cloze), {}); };
  EXPECT_EQ(files(), 3);
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(files(), 4);
  for (const std::string& line : starts(f)) EXPECT_TRUE(line.ends_with("0") || line.ends_with("5")) << line;
}

TEST(StudyDriver, AskedAgainForTheFirstClozeItReportsThatOne) {
  FakeStudy f;
  const auto candidates = [&] { return f.report()["s1-lr1"]["measures"]["sets"][0]["candidates"]; };
  for (const int asked : {4, 5, 4}) {
    f.study.cloze.candidates = asked;
    ASSERT_EQ(f.drive(), 0);
    EXPECT_EQ(candidates(), asked);
  }
}

TEST(StudyDriver, OtherHeldOutTextIsMeasuredAndOtherTrainingTextRefused) {
  FakeStudy f;
  const std::string text = f.folder.file("text");
  for (const char* file : {"text.bin", "text.idx", "held.bin", "held.idx", "other.bin", "other.idx"})
    f.folder.write(file, file);
  f.study.valid = {{"new", f.folder.file("held")}};
  const auto with_held_out = [&](const std::string& prefix) {
    change_runs(f, [text, prefix](StudyRun& run) {
      run.config.data.train = {{text, 1}};
      Json config = Json::parse(run.config_text);
      config["data"]["valid"]["new"] = prefix;
      run.config_text = config.dump();
    });
  };
  const auto measured = [&] {
    return std::distance(std::filesystem::directory_iterator(f.study.output + "/runs/s1-lr1/measured"), {});
  };
  with_held_out("held");
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(measured(), 3);
  f.folder.write("held.bin", "other tokens");  // under the old name
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(measured(), 5);
  f.study.valid = {{"new", f.folder.file("other")}};
  with_held_out("other");
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(measured(), 7);
  EXPECT_EQ(Json::parse(f.folder.read("out/runs/s1-lr1/config.json"))["data"]["valid"]["new"], "other");

  f.folder.write("text.bin", "text.BIN");
  EXPECT_EQ(f.drive(), 2);
  const std::string said = f.lines("said").back();
  EXPECT_TRUE(contains(said, text + ".bin: found 8 bytes, ")) << said;
  EXPECT_TRUE(contains(said, "as when the run dense-lr2 was started")) << said;
}

TEST(StudyDriver, AStudysFolderMayBeMoved) {
  FakeStudy f;
  change_runs(f, [&](StudyRun& run) {
    if (!run.needs.empty()) run.config.init.load = f.study.output + "/runs/" + run.needs[0];
    Json config = Json::parse(run.config_text);
    config["init"]["load"] = run.config.init.load;
    run.config_text = config.dump();
  });
  f.append("broken-s1-lr1", "");
  ASSERT_EQ(f.drive(), kStudyIncomplete);
  const std::size_t before = f.lines("calls").size();
  const std::string old = f.study.output + "/runs/dense-lr2";
  std::filesystem::remove(f.study.output + "/runs/s1-lr3/measures.json");
  const std::string moved = f.folder.file("moved");
  std::filesystem::rename(f.study.output, moved);
  f.study.output = moved;
  std::filesystem::remove(moved + "/broken-s1-lr1");
  ASSERT_EQ(f.drive(), 0);
  EXPECT_EQ(f.lines("calls").size(), before + 4);
  const auto start = [&](const std::string& run) {
    return Json::parse(f.folder.read("moved/runs/" + run + "/config.json"))["init"]["load"];
  };
  EXPECT_EQ(start("s1-lr1"), moved + "/runs/dense-lr2");
  EXPECT_EQ(start("s1-lr3"), old);  // as its checkpoint says
  EXPECT_EQ(Json::parse(f.folder.read("moved/runs/s1-lr1/started.json"))["files"], Json::object());
}

TEST(StudyDriver, RunsTrainedInSeveralWaysAreNoted) {
  FakeStudy f;
  f.append("broken-s1-lr1", "");
  ASSERT_EQ(f.drive(), kStudyIncomplete);
  EXPECT_TRUE(f.lines("notes").empty());
  std::filesystem::remove(f.study.output + "/broken-s1-lr1");
  std::filesystem::remove_all(f.study.output + "/runs/s1-lr1");
  f.study.launch.at_once = 2;
  ASSERT_EQ(f.drive(), 0);
  const std::string note = f.lines("notes").at(0);
  EXPECT_TRUE(contains(note, " with 1 rank and 2 runs at a time. ")) << note;
  EXPECT_TRUE(contains(note, "the 1 rank and 2 runs at a time of the last start")) << note;
}

TEST(StudyDriver, ADiskThatIsFullFailsTheRunAndNotTheDriver) {
  FakeStudy f;
  // A folder in the place of a file to be written stands for a disk that takes nothing.
  std::filesystem::create_directories(f.study.output + "/runs/s1-lr1/train.log");
  ASSERT_EQ(f.drive(), kStudyIncomplete);
  EXPECT_EQ(f.report()["s1-lr1"]["status"], "failed");
  EXPECT_EQ(f.report()["s2-lr2"]["status"], "done");
  std::filesystem::remove(f.study.output + "/runs/s1-lr1/train.log");
  ASSERT_EQ(f.drive(), 0);
}

}  // namespace
}  // namespace upcycle
