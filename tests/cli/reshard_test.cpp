#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const json experts = {{"model", {{"num_local_experts", 4}}}, {"train", {{"steps", 2}}}};

std::string manifest_of(const std::string& run) { return text_of(run + "/step_00000002/manifest.json"); }

TEST(Reshard, ThereAndBackIsTheSameFolder) {
  const SmallRun small;
  const std::string run = small.train("run", experts), two = small.file("two"), back = small.file("back");
  const Outcome o = run_upcycle({"reshard", run, two, "--world=2", "--parallel.tp=2", "--parallel.ep=2"});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  const json layout = json_of({"inspect", two, "--json", "--verify"})["layout"];
  EXPECT_EQ(layout, (json{{"world", 2}, {"tp", 2}, {"dp", 1}, {"ep", 2}, {"etp", 1}, {"edp", 1}}));
  EXPECT_EQ(checkpoint_hashes(two).size(), 4u);
  EXPECT_EQ(run_upcycle({"reshard", two + "/step_00000002", back, "--world=1"}).exit_code, 0);
  EXPECT_EQ(manifest_of(back), manifest_of(run));
  EXPECT_EQ(text_of(back + "/latest").substr(0, 14), "step_00000002\n");
  for (const auto& [name, hash] : checkpoint_hashes(run))
    EXPECT_EQ(text_of(back + "/step_00000002/" + name), text_of(run + "/step_00000002/" + name)) << name;
}

// Two ranks that resume from either save bit for bit the same.
TEST(Reshard, TrainingGoesOnFromIt) {
  const SmallRun small;
  const std::string run = small.train("run", experts), config = small.write_config("run", experts);
  fs::create_directory(small.file("made"));
  EXPECT_EQ(run_upcycle({"reshard", run, small.file("made"), "--world=2", "--parallel.ep=2"}).exit_code, 0);
  for (const char* dir : {"run", "made"}) {
    const Outcome o =
        run_ranks(2, {"train", config, "--parallel.ep=2", "--train.steps=4", "--checkpoint.dir=" + small.file(dir)});
    EXPECT_EQ(o.exit_code, 0) << o.err;
  }
  EXPECT_EQ(checkpoint_hashes(small.file("made")), checkpoint_hashes(run));
}

TEST(Reshard, AnImportedModelHasNoMoments) {
  const SmallRun small;
  const std::string dense = small.file("dense"), two = small.file("two");
  ASSERT_EQ(run_upcycle({"import", UPCYCLE_ROOT "/tests/golden/llama_gqa_tied", dense, "--shards=3"}).exit_code, 0);
  EXPECT_EQ(json_of({"inspect", dense, "--json", "--verify"})["files"].size(), 3u + 1);  // config.json travels
  ASSERT_EQ(run_upcycle({"reshard", dense, two, "--world=2", "--parallel.tp=2"}).exit_code, 0);
  const json j = json_of({"inspect", two, "--json", "--verify"});
  EXPECT_EQ(j["optimizer_state"], false);
  EXPECT_EQ(j["files"].size(), 2u + 1);
  EXPECT_EQ(j["init"], json_of({"inspect", dense, "--json"})["init"]);
  const std::string ids = small.write_ids("ids.json", {1, 2, 3});
  EXPECT_EQ(json_of({"score", two, "--ids", ids, "--json"})["nll"],
            json_of({"score", dense, "--ids", ids, "--json"})["nll"]);
}

TEST(Reshard, RefusesAndLeavesNothing) {
  const SmallRun small;
  const std::string run = small.train("run", experts), out = small.file("out");
  const auto refused = [&](const Words& words, const Words& named) {
    const auto before = files_below(small.folder.path.string());
    Words all{"reshard"};
    all.insert(all.end(), words.begin(), words.end());
    const std::string line = one_line_error(run_upcycle(all));
    for (const std::string& part : named) EXPECT_NE(line.find(part), std::string::npos) << part << " in: " << line;
    EXPECT_EQ(files_below(small.folder.path.string()), before) << line;
  };
  refused({run, out, "--parallel.tp=2"}, {"parallel.tp=2 does not divide world=1"});
  refused({run, out, "--world=4", "--parallel.tp=2", "--parallel.etp=4"}, {"parallel.etp=4"});
  refused({run, out, "--world=4", "--parallel.tp=4"}, {"num_key_value_heads = 2"});
  refused({run, out, "--world=8", "--parallel.ep=8"}, {"num_local_experts = 4", "parallel.ep"});
  refused({run, out, "--world=-1"}, {"--world: found -1"});
  refused({run, out, "--world=99999999999"}, {"--world: found 99999999999"});
  refused({run, out, "--parallel.tp=0"}, {"--parallel.tp: found 0"});
  refused({run, run}, {"run: found", "expected an empty folder or none"});
  refused({run, run + "/step_00000002/inside"}, {"never changed"});
  refused({run, small.file("run.json")}, {"found a file"});
  refused({run, "/proc/none/out"}, {"/proc/none/out", "cannot make the folder"});
  refused({small.file("none"), out}, {"no such folder"});
  refused({run}, {"out"});
  const std::string model = run + "/step_00000002/model.rank00000.h5";
  std::string bytes = text_of(model);
  bytes[bytes.size() / 2] ^= 1;
  write_bytes(model, bytes);
  refused({run, out}, {"model.rank00000.h5: found hash"});
  const Outcome looks = run_upcycle({"inspect", run}),
                reads = run_upcycle({"inspect", run + "/step_00000002", "--verify"});
  EXPECT_EQ(looks.exit_code, 0) << looks.err;
  EXPECT_NE(one_line_error(reads).find("model.rank00000.h5: found hash"), std::string::npos);
}

}  // namespace
}  // namespace upcycle
