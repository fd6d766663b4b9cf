#include <algorithm>
#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// checkpoint.model_every: folders that every reader of weights takes and that training does not resume from.
namespace upcycle {
namespace {

using nlohmann::json;

const json saves = {{"train", {{"steps", 6}}},
                    {"checkpoint", {{"every", 4}, {"model_every", 2}, {"model_dtype", "bf16"}, {"keep", 1}}}};

std::vector<std::string> folders(const std::string& run) {
  std::vector<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(run))
    if (e.is_directory()) names.push_back(e.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(WeightsAlone, AreReadByEveryReaderOfWeights) {
  const SmallRun small;
  const std::string run = small.train("run", saves), model = run + "/model_00000006";
  EXPECT_EQ(folders(run), (Words{"model_00000002", "model_00000004", "model_00000006", "step_00000006"}));
  const json about = json_of({"inspect", model, "--verify", "--json"});
  EXPECT_EQ(about["weights_alone"], "bf16");
  EXPECT_EQ(about["step"], 6);
  EXPECT_EQ(about["optimizer_state"], false);
  EXPECT_LT(about["bytes"], json_of({"inspect", run, "--json"})["bytes"]);

  // As near as bf16 weights are.
  const auto loss = [&](const std::string& dir) -> double {
    return json_of({"eval", dir, "--data", small.file("valid"), "--json"})["loss"];
  };
  EXPECT_NEAR(loss(model), loss(run), 1e-2);
  EXPECT_NE(loss(model), loss(run));
  ASSERT_EQ(run_upcycle({"export", model, small.file("hf")}).exit_code, 0);
  EXPECT_EQ(loss(small.file("hf")), loss(model));
  EXPECT_EQ(run_upcycle({"generate", model, "ab", "--tokens=2", "--tokenizer=bytes"}).exit_code, 0);
  EXPECT_EQ(run_upcycle({"diff", model, run}).exit_code, 1);  // they differ by rounding
  EXPECT_EQ(run_upcycle({"reshard", model, small.file("again")}).exit_code, 0);
  const auto entries = checkpoint_hashes(small.file("again"));
  EXPECT_EQ(entries.count("optimizer.rank00000.h5"), 0u);
  EXPECT_EQ(loss(small.file("again")), loss(model));
  const std::string next = small.train("next", {{"init", {{"load", model}}}, {"train", {{"steps", 1}}}});
  EXPECT_EQ(folders(next), Words{"step_00000001"});
}

TEST(WeightsAlone, AndStepsAreTheSameABucketAtATime) {
  const SmallRun small;
  json changes = saves;
  const std::string whole = small.train("whole", changes);
  changes["checkpoint"]["snapshot"] = "bucket";
  const std::string config = small.write_config("buckets", changes), run = small.file("buckets");
  const Outcome trained = run_upcycle({"train", config});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_NE(trained.err.find("step 4: training waited"), std::string::npos) << trained.err;
  EXPECT_EQ(folders(run), folders(whole));
  EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(whole));
  const auto model_of = [](const std::string& dir) { return text_of(dir + "/model_00000004/model.rank00000.h5"); };
  EXPECT_TRUE(model_of(run) == model_of(whole));
}

TEST(WeightsAlone, AreNotResumedFrom) {
  const SmallRun small;
  json changes = saves;
  changes["checkpoint"]["every"] = 3;
  changes["train"]["steps"] = 3;
  const std::string run = small.train("run", changes), config = small.file("run.json");
  const std::string line =
      one_line_error(run_upcycle({"train", config, "--checkpoint.dir=" + run + "/model_00000002"}));
  EXPECT_NE(line.find("model_00000002 holds weights alone (checkpoint.model_every)"), std::string::npos) << line;
  EXPECT_NE(line.find("init.load"), std::string::npos) << line;

  // A run that was killed after its fourth step: the newest whole step is the third.
  std::filesystem::copy(run + "/model_00000002", run + "/model_00000004");
  const Outcome resumed = run_upcycle({"train", config, "--train.steps=4"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("model_00000004: weights alone, from which training can not resume: it goes on from "
                             "step_00000003, the newest step that was saved whole"),
            std::string::npos)
      << resumed.err;
  EXPECT_EQ(json::parse(text_of(run + "/model_00000004/manifest.json"))["step"], 4);
  EXPECT_EQ(folders(run), (Words{"model_00000002", "model_00000004", "step_00000004"}));
}

TEST(WeightsAlone, OfARunThatSavedNothingElse) {
  const SmallRun small;
  const std::string run = small.train("run", saves), config = small.file("run.json");
  std::filesystem::remove_all(run + "/step_00000006");
  std::filesystem::remove(run + "/latest");
  const std::string line = one_line_error(run_upcycle({"eval", run, "--data", small.file("valid")}));
  EXPECT_NE(line.find("model_00000006 holds weights alone: to read them give its path"), std::string::npos) << line;
  const Outcome again = run_upcycle({"train", config});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("it goes on from the start, because no step was saved whole"), std::string::npos);
  EXPECT_EQ(folders(run), (Words{"model_00000002", "model_00000004", "model_00000006", "step_00000006"}));
}

}  // namespace
}  // namespace upcycle
