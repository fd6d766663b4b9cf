#include <cmath>
#include <fstream>

#include "data/safetensors.h"
#include "tests/cli/small_run.h"

// `debug.dump` and `upcycle diff`.
namespace upcycle {
namespace {

using nlohmann::json;

const json moe = {{"model", {{"num_local_experts", 4}}}, {"train", {{"steps", 2}, {"global_batch_size", 8}}}};

// The folder of a dump of small.config with `changes`, on so many ranks.
std::string dump(const SmallRun& small, const std::string& name, json changes, int ranks = 1) {
  const std::string folder = small.file(name + "_dump");
  changes["debug"]["dump"] = folder;
  (void)small.train(name, changes, ranks);
  return folder;
}

json difference(const std::string& a, const std::string& b, int exit_code) {
  const Outcome o = run_upcycle({"diff", a, b, "--json"});
  EXPECT_EQ(o.exit_code, exit_code) << o.out << o.err;
  return json::parse(o.out, nullptr, false);
}

// Changes the first value of a tensor.
void plant(const std::string& path, const std::string& tensor, float value) {
  const std::uint64_t at = SafetensorsFile::open(path).info(tensor).begin;
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
}

void expect_refused(const std::vector<std::string>& arguments, const std::vector<std::string>& named) {
  const std::string line = one_line_error(run_upcycle(arguments));
  for (const std::string& word : named) EXPECT_NE(line.find(word), std::string::npos) << line << "\nlacks " << word;
}

TEST(Dump, EveryLayoutMakesTheSameTensors) {
  const SmallRun small;
  const std::string one = dump(small, "one", moe);
  json tp = moe, all = moe, dp = moe;
  tp["parallel"] = {{"tp", 2}};
  all["parallel"] = {{"tp", 2}, {"ep", 2}, {"etp", 2}};
  all["train"]["recompute"] = "full";
  dp["parallel"] = {{"ep", 2}, {"dispatch_chunks", 2}};
  for (const std::string& other : {dump(small, "tp", tp, 2), dump(small, "dp", dp, 2), dump(small, "all", all, 4)}) {
    SCOPED_TRACE(other);
    const json d = difference(one, other, 0);
    EXPECT_EQ(d["differ"], 0) << d;
    EXPECT_EQ(d["first"], nullptr);
    // 4 microbatches: inputs, last norm, loss and its residual's gradient; two layers' six activations and two
    // gradients. The embedding's, the head's and the last norm's gradients; a layer's four matrices of attention, two
    // norms, router and three matrices for each expert.
    EXPECT_EQ(d["tensors"], 4 * (5 + 2 * 8) + 3 + 2 * (4 + 2 + 1 + 4 * 3));
  }
  EXPECT_EQ(difference(one, one, 0)["same_bits"], difference(one, one, 0)["tensors"]);
}

TEST(Dump, LeavesTheRunAsItWas) {
  const SmallRun small;
  json changes = moe;
  changes["debug"]["dump_step"] = 2;
  (void)dump(small, "with", changes);
  EXPECT_EQ(step_lines(small.file("with"))[1]["grad_norm"], step_lines(small.train("without", moe))[1]["grad_norm"]);
  EXPECT_EQ(json::parse(std::ifstream(small.file("with_dump/rank00000/dump.json")))["step"], 2);
  EXPECT_EQ(difference(small.file("with"), small.file("without"), 0)["same_bits"],
            difference(small.file("with"), small.file("with"), 0)["tensors"]);
}

TEST(Dump, BadFoldersAreRefusedBeforeTheRun) {
  const SmallRun small;
  const std::string config = small.write_config("run"), file = small.folder.write("file", "text");
  expect_refused({"train", config, "--debug.dump=" + small.folder.path.string()}, {"debug.dump: ", "empty folder"});
  expect_refused({"train", config, "--debug.dump=" + file}, {"debug.dump: " + file, "found a file"});
  expect_refused({"train", config, "--debug.dump=" + file + "/below"}, {"debug.dump: " + file, "cannot make"});
  expect_refused({"train", config, "--debug.dump_step=2"}, {"debug.dump_step: found 2, expected debug.dump"});
  expect_refused({"train", config, "--debug.dump=" + small.file("d"), "--debug.dump_step=7"},
                 {"debug.dump_step: found 7, expected at most the run's 6 steps"});
  EXPECT_FALSE(std::filesystem::exists(small.file("run")));
}

TEST(Dump, AResumedRunLeavesItAndGoesOn) {
  const SmallRun small;
  json changes = moe;
  changes["debug"]["dump_step"] = 1;
  (void)dump(small, "run", changes);
  changes["train"]["steps"] = 3;
  (void)dump(small, "run", changes);
  EXPECT_EQ(step_lines(small.file("run")).size(), 3u);
  EXPECT_EQ(json::parse(std::ifstream(small.file("run_dump/rank00000/dump.json")))["step"], 1);
}

TEST(Diff, AnInfinityOnOneSideIsADifference) {
  const SmallRun small;
  const std::string run = small.train("run", moe), a = small.file("a"), b = small.file("b");
  ASSERT_EQ(run_upcycle({"export", run, a}).exit_code, 0);
  std::filesystem::copy(a, b);
  const std::string in_a = a + "/model.safetensors", in_b = b + "/model.safetensors", name = "model.norm.weight";
  plant(in_a, name, INFINITY);
  EXPECT_EQ(difference(in_a, in_b, 1)["first"]["name"], name);
  EXPECT_EQ(difference(in_b, in_a, 1)["furthest"]["name"], name);
  plant(in_b, name, INFINITY);
  EXPECT_EQ(difference(in_a, in_b, 0)["differ"], 0);
}

TEST(Diff, NamesTheFirstTensor) {
  const SmallRun small;
  const std::string run = small.train("run", moe), a = small.file("a"), b = small.file("b");
  ASSERT_EQ(run_upcycle({"export", run, a}).exit_code, 0);
  std::filesystem::copy(a, b);
  EXPECT_EQ(difference(a, run, 0)["differ"], 0);
  const std::string planted = "model.layers.1.self_attn.o_proj.weight";
  plant(b + "/model.safetensors", planted, 0.5f);
  for (const std::string& other : {b, b + "/model.safetensors"}) {
    const json d = difference(other == b ? a : a + "/model.safetensors", other, 1);
    EXPECT_EQ(d["differ"], 1);
    EXPECT_EQ(d["first"]["name"], planted);
    EXPECT_EQ(d["first"]["largest_at"], json({0, 0}));
    EXPECT_EQ(d["first"]["b"], 0.5);
  }
  json from_a = {{"init", {{"load", a}}}, {"train", {{"steps", 1}}}}, from_b = from_a;
  from_b["init"]["load"] = b;
  const json d = difference(dump(small, "from_a", from_a), dump(small, "from_b", from_b), 1);
  EXPECT_EQ(d["first"]["name"], "microbatch.0.layers.1.x_mid");
  const Outcome text = run_upcycle({"diff", a, b});
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_TRUE(text.out.starts_with(planted + " [32,32]: ||a - b|| = ")) << text.out;
  EXPECT_EQ(run_upcycle({"diff", a, b, "--relative=100"}).exit_code, 0);
}

TEST(Diff, BadInputIsOneLine) {
  const SmallRun small;
  const std::string one = dump(small, "one", moe), dense = dump(small, "dense", {});
  const std::string run = small.file("one"), list = one + "/rank00000/dump.json";
  expect_refused({"diff", run, small.file("none")}, {small.file("none"), "no such folder"});
  expect_refused({"diff", run, one}, {one, "found no tensor model.embed_tokens.weight"});
  expect_refused({"diff", one, dense}, {dense, "found no tensor microbatch.0.layers.0.experts, which " + one + " has"});
  expect_refused({"diff", dense, one}, {dense, "found no tensor"});
  expect_refused({"diff", run, run, "--relative=-1"}, {"--relative: found -1"});
  const std::string wider = dump(small, "wider", {{"model", {{"intermediate_size", 96}}}});
  expect_refused({"diff", dense, wider}, {wider, "down_proj.weight: found F32 [32,96], expected F32 [32,64]"});

  plant(dense + "/rank00000/00000/model.safetensors", "microbatch.1.nll/0", 7);
  expect_refused({"diff", dense, dense}, {"microbatch.1.nll/0", "hash"});
  json pieces = json::parse(std::ifstream(list));
  pieces["world"] = 2;
  std::ofstream(list) << pieces;
  expect_refused({"diff", one, one}, {"rank00001/dump.json", "of each of the dump's 2 ranks"});
  pieces["world"] = 1;
  json wrong = pieces;
  wrong["pieces"][5]["part"][2] = 1;
  std::ofstream(list) << wrong;
  expect_refused({"diff", one, one}, {"a piece that does not fit"});
  wrong = pieces;
  wrong["pieces"][5]["file"] = "../../run/run.json";
  std::ofstream(list) << wrong;
  expect_refused({"diff", one, one}, {list, "found the file ../../run/run.json, expected one in this folder"});
  std::ofstream(list) << "[]";
  expect_refused({"diff", one, one}, {list, "expected a dump's list"});
}

}  // namespace
}  // namespace upcycle
