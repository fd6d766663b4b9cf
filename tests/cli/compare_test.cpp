#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

// A study of five runs that take a second each.
struct SmallStudy {
  TemporaryFolder folder;
  json study;

  SmallStudy() {
    std::string text;
    for (int i = 0; i < 1600; ++i) {
      text += fmt::format("The {} sat on the {} for {} hours.\n", i % 3 ? "cat" : "dog", i % 5 ? "mat" : "roof", i % 7);
      if (i % 20 == 0) text += "<|endoftext|>\n";
    }
    const std::string file = folder.write("text.txt", text), set = folder.file("text");
    for (const std::string& output : {set, folder.file("held_out")})
      EXPECT_EQ(run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + output, file}).exit_code, 0);
    study = {{"name", "small"},
             {"output", folder.file("out")},
             {"data", {{"pretraining", set}, {"continuation", set}, {"valid", {{"text", folder.file("held_out")}}}}},
             {"run",
              {{"dtype", "fp32"}, {"train", {{"seq_length", 32}, {"micro_batch_size", 8}, {"global_batch_size", 8}}}}},
             {"sizes",
              {{"tiny",
                {{"model",
                  {{"hidden_size", 16},
                   {"intermediate_size", 32},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 2},
                   {"vocab_size", 258},
                   {"max_position_embeddings", 64}}}}}}},
             {"pretraining", {{"tokens_per_parameter", {2}}, {"run", {{"train", {{"lr", 1e-2}}}}}}},
             {"continuation", {{"budgets", {0.5, 1}}}},
             {"arms",
              {{"cpt", {{"from", "dense"}, {"learning_rates", {1e-2}}}},
               {"upcycled",
                {{"from", "upcycle"}, {"learning_rates", {1e-2}}, {"run", {{"model", {{"num_local_experts", 4}}}}}}}}},
             {"cloze", {{"items", 0}}},
             {"launch", {{"threads", 1}, {"at_once", 2}}}};
    write();
  }
  void write() const { folder.write("study.json", study.dump(1)); }
  std::vector<std::string> words() const { return {UPCYCLE_BINARY, "compare", folder.file("study.json")}; }
  Outcome run() const { return run_program(words()); }
  // The logs of the runs, for messages.
  std::string logs() const {
    std::ostringstream text;
    for (const auto& run : std::filesystem::directory_iterator(folder.file("out/runs")))
      text << run.path() << ":\n" << std::ifstream(run.path() / "train.log").rdbuf();
    return text.str();
  }
  json report() const { return json::parse(folder.read("out/report.json")); }
};

TEST(Compare, InterruptedAndKilledItEndsWithEveryRunAndRefusesAnotherConfig) {
  SmallStudy s;
  s.study["match"] = "wall_time";  // speeds that are timed again would make other runs
  s.write();
  {
    Started driver(s.words());
    for (int i = 0; i < 1000 && !std::filesystem::exists(s.folder.file("out/runs/tiny-d2/metrics.jsonl")); ++i)
      usleep(10000);
    driver.signal(SIGINT);  // Ctrl-C: its run saves
    const Outcome o = driver.finish();
    EXPECT_EQ(o.exit_code, 3) << o.err;
    EXPECT_TRUE(contains(o.err, "the same command goes on from here"));
  }
  {
    Started driver(s.words());
    for (int i = 0; i < 3000 && !std::filesystem::exists(s.folder.file("out/runs/tiny-d2/measures.json")); ++i)
      usleep(10000);
    driver.kill();
    EXPECT_EQ(driver.finish().exit_code, 128 + SIGKILL);
  }
  const Outcome o = s.run();
  EXPECT_EQ(o.exit_code, 0) << o.err << s.logs();
  EXPECT_TRUE(contains(o.err, "5 runs, 4 to do"));
  const json report = s.report();
  ASSERT_EQ(report["runs"].size(), 5u);
  for (const json& run : report["runs"]) {
    EXPECT_EQ(run["status"], "done") << run["name"];
    EXPECT_GT(run["loss"]["text"], 0) << run["name"];
    EXPECT_EQ(run["experts"].is_null(), run["arm"] != "upcycled") << run["name"];
  }
  EXPECT_EQ(json::parse(s.folder.read("out/rates.json")).size(), 2u);
  for (const char* file : {"out/report.html", "out/runs.csv"}) EXPECT_FALSE(s.folder.read(file).empty()) << file;

  // The command that repeats a run trains it anew, to the same weights.
  const json& repeated = report["runs"].back();
  const std::string name = repeated["name"], path = std::filesystem::path(UPCYCLE_BINARY).parent_path();
  const Outcome again =
      run_program({"/bin/sh", "-c", repeated["command"]}, {{"PATH", path + ":" + std::getenv("PATH")}});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  const auto losses = [&](const std::string& folder) {
    std::vector<json> all;
    std::ifstream in(s.folder.file(folder + name + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) all.push_back(json::parse(line).value("loss", json()));
    return all;
  };
  EXPECT_FALSE(losses("out/again/").empty());
  EXPECT_EQ(losses("out/again/"), losses("out/runs/"));

  s.study["run"]["train"]["weight_decay"] = 0.2;
  s.write();
  const std::string line = one_line_error(s.run());
  EXPECT_TRUE(contains(line, "train.weight_decay: found 0.2, expected nothing as the run tiny-d2 has it"));
  EXPECT_EQ(s.report(), report);
}

TEST(Compare, OfADivergedRunTheReportHasTheError) {
  SmallStudy s;
  s.study["continuation"]["budgets"] = {0.5};
  s.study["arms"]["cpt"]["learning_rates"] = {1e6};
  s.study["arms"]["cpt"]["run"] = {{"train", {{"clip_grad", 1e30}}}};
  s.write();
  const Outcome o = s.run();
  EXPECT_EQ(o.exit_code, 4) << o.err;
  EXPECT_TRUE(contains(o.err, "1 of 3 runs failed or are missing"));
  for (const json& run : s.report()["runs"]) {
    const bool diverged = run["arm"] == "cpt";
    EXPECT_EQ(run["status"], diverged ? "failed" : "done");
    EXPECT_TRUE(contains(run["error"], diverged ? "training has diverged" : ""));
  }
}

// Failed runs end the job, an error that nobody expected starts it again.
TEST(Compare, StudySbatchTellsFailedRunsFromAnError) {
  const TemporaryFolder folder;
  const std::string program = folder.write("program", "#!/bin/sh\nexit $2\n");
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  for (const auto& [code, expected] : std::map<int, int>{{0, 0}, {1, 98}, {2, 2}, {4, 4}, {137, 98}})
    EXPECT_EQ(run_program({"/bin/bash", UPCYCLE_ROOT "/launch/study.sbatch", std::to_string(code)},
                          {{"UPCYCLE_BINARY", program}, {"SLURM_JOB_ID", "1"}})
                  .exit_code,
              expected);
}

TEST(Compare, BadInputIsOneLineBeforeAnyWork) {
  const SmallStudy s;
  const auto refused = [&](std::vector<std::string> more) {
    std::vector<std::string> words = s.words();
    words.insert(words.end(), more.begin(), more.end());
    return one_line_error(run_program(words));
  };
  EXPECT_TRUE(contains(refused({"--arms.cpt.learning_rates=[1e-2,2e-2]"}), "arms.cpt.learning_rates"));
  EXPECT_TRUE(contains(refused({"--output"}), "--output"));
  EXPECT_TRUE(contains(refused({"more"}), "more"));
  // Arms that can not be compared, text that is too small, a machine that is too small.
  EXPECT_TRUE(contains(refused({"--arms.cpt.run.train.seq_length=16"}), "train.seq_length: found 32"));
  const json other = s.study["sizes"]["tiny"];
  json larger = other;
  larger["model"]["vocab_size"] = 512;
  EXPECT_TRUE(contains(refused({"--sizes.larger=" + larger.dump()}), "a vocabulary of 512"));
  EXPECT_TRUE(contains(refused({"--continuation.run.train.warmup_steps=5"}), "at most 0.1 of the shortest budget"));
  EXPECT_TRUE(contains(refused({"--continuation.run.train.warmup_tokens=2000"}), "a warm-up of 2000 tokens"));
  EXPECT_TRUE(contains(refused({"--continuation.budgets=[0.5,50]"}), "epochs"));
  EXPECT_EQ(refused({"--continuation.budgets=[0.5,50]", "--data.most_epochs=1000", "--data.valid.text=none"}),
            refused({"--data.valid.text=none"}));  // asked for, many epochs are none of its errors
  EXPECT_TRUE(contains(refused({"--data.continuation=none"}), "none.idx"));
  s.folder.write("short.txt", "A few words.\n");
  ASSERT_EQ(
      run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + s.folder.file("short"), s.folder.file("short.txt")})
          .exit_code,
      0);
  EXPECT_TRUE(contains(refused({"--data.valid.text=" + s.folder.file("short")}), "at least 20 documents"));
  json huge = other;
  huge["model"]["hidden_size"] = 1 << 16;
  huge["model"]["intermediate_size"] = 1 << 18;
  EXPECT_TRUE(contains(
      refused({"--sizes.tiny=" + huge.dump(), "--pretraining.tokens_per_parameter=[1e-6]", "--data.most_epochs=1000"}),
      "that are free here"));
  EXPECT_TRUE(
      contains(refused({"--cloze.items=1000", "--cloze.context=60", "--cloze.length=5"}), "the 64 positions of tiny"));
  EXPECT_TRUE(contains(refused({"--cloze.items=1000000", "--cloze.context=8", "--cloze.length=8"}),
                       "a cloze of 1000000 items"));
  const std::string total = R"({"from": "random", "budget": "total", "learning_rates": [1e-2],
                                "run": {"model": {"num_local_experts": 4}}})";
  EXPECT_TRUE(contains(
      refused({"--arms.total=" + total, R"(--sizes.tiny={"load": ")" UPCYCLE_ROOT R"(/tests/golden/llama_gqa_tied"})",
               "--continuation.budgets=null", "--continuation.tokens=[5000]"}),
      "total beside sizes.tiny.load"));
  EXPECT_TRUE(contains(refused({"--launch.ranks=3"}), "train.global_batch_size"));
  EXPECT_FALSE(std::filesystem::exists(s.folder.file("out")));
  EXPECT_TRUE(contains(refused({"--output=" + s.folder.file("text.txt")}), "text.txt"));
}

}  // namespace
}  // namespace upcycle
