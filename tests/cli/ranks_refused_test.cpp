#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

#include "data/files.h"
#include "data/hash.h"
#include "data/hdf5.h"
#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// What can be wrong on some ranks only, or with a folder that several read: one line of one rank that says which, exit
// code 2 of the whole job, no rank that waits for ever, no file more than before.
namespace upcycle {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct RanksRefused : ::testing::Test {
  SmallRun small;
  const std::string binary = UPCYCLE_BINARY;

  std::string file(const std::string& name) const { return small.file(name); }

  void refused(const std::vector<Part>& parts, const Words& named) {
    const auto before = files_below(small.folder.path.string());
    expect_one_line(run_parts(parts), named);
    EXPECT_EQ(files_below(small.folder.path.string()), before);
  }
  Part train(int ranks, const std::string& config, const Words& more = {}) const {
    Part part{ranks, {binary, "train", config}};
    part.words.insert(part.words.end(), more.begin(), more.end());
    return part;
  }
};

TEST_F(RanksRefused, DifferentConfigs) {
  const std::string a = small.write_config("a"),
                    b = small.write_config("b", {{"checkpoint", {{"dir", file("a")}}}, {"train", {{"lr", 0.02}}}});
  refused({train(1, a), train(1, b)}, {"train.lr: found 0.02 on rank 1, expected 0.01 as on rank 0", "one config"});
  refused({train(2, a), train(1, b), train(1, a)}, {"train.lr: found 0.02 on rank 2"});
  refused({train(1, a), train(3, b)}, {"found 0.02 on ranks 1 to 3"});
  // Each layout is valid by itself, but ranks that used different ones would wait for each other.
  refused({train(1, a), train(1, a, {"--parallel.tp=2"})}, {"parallel.tp: found 2 on rank 1, expected 1"});
  refused({train(1, a), train(1, a, {"--checkpoint.dir=" + file("other")})}, {"checkpoint.dir: found", "on rank 1"});
  refused({train(1, a), train(1, file("none.json"))}, {"none.json: found no such file"});
  refused({train(1, file("none.json")), train(1, a)}, {"none.json: found no such file"});
  Part bench{1, {binary, "bench", "step", a}};
  Part other{1, {binary, "bench", "step", a, "--dtype=bf16"}};
  refused({bench, other}, {"dtype: found \"bf16\" on rank 1, expected \"fp32\""});
}

// Found before MPI runs, by a single rank.
TEST_F(RanksRefused, DifferentCommandLines) {
  const std::string a = small.write_config("a");
  refused({train(1, a), {1, {binary, "train", a, "--no-such-option"}}}, {"--no-such-option"});
  refused({{1, {binary, "train", a, "--no-such-option"}}, train(1, a)}, {"--no-such-option"});
  refused({train(1, a), {1, {binary, "tokenise"}}}, {"did you mean 'tokenize'"});
  refused({train(2, a), {2, {binary, "inspect", file("a")}}}, {"found 4 ranks, expected one"});
  refused({train(1, a), {1, {binary, "bench", "step", a}}},
          {"command: found bench step on rank 1, expected train as on rank 0"});
  refused({{3, {binary, "generate", file("a"), "x"}}}, {"no such folder"});
}

TEST_F(RanksRefused, DifferentBinaries) {
  const std::string a = small.write_config("a"), other = file("upcycle_of_another_build");
  fs::copy_file(binary, other);
  std::ofstream(other, std::ios::binary | std::ios::app) << "built again";
  refused({train(1, a), {1, {other, "train", a}}}, {"hash of the binary", "on rank 1", "one upcycle"});
}

struct RanksCheckpoint : RanksRefused {
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}}, 2), config = file("run.json");
  const std::string step = run + "/step_00000001", fresh = small.write_config("fresh");
  const std::string manifest = step + "/manifest.json", model0 = step + "/model.rank00000.h5",
                    model1 = step + "/model.rank00001.h5", optimizer1 = step + "/optimizer.rank00001.h5";

  // When resuming and, for the weights, when starting from them.
  void both_refuse(const Words& named, bool weights = true) {
    refused({train(2, config)}, named);
    if (weights) refused({train(3, fresh, {"--init.load=" + run, "--train.global_batch_size=6"})}, named);
  }
  void change_manifest(const std::function<void(json&)>& change) const {
    json j = json::parse(text_of(manifest));
    j.erase("manifest_hash");
    j["format_version"] = 1;
    change(j);
    write_bytes(manifest, j.dump());
  }
};

TEST_F(RanksCheckpoint, MissingRenamedAndSwappedShards) {
  ASSERT_NE(fs::file_size(model0), fs::file_size(model1));  // only rank 0 writes the norms
  fs::rename(optimizer1, file("kept"));
  both_refuse({"optimizer.rank00001.h5: found no such file"}, false);
  fs::rename(file("kept"), optimizer1);
  fs::rename(model1, step + "/model.rank00002.h5");
  both_refuse({"model.rank00001.h5: found no such file", "'model.rank00002.h5'", "rename it back"});
  fs::rename(step + "/model.rank00002.h5", model1);
  fs::rename(model0, file("kept"));
  fs::rename(model1, model0);
  fs::rename(file("kept"), model1);
  both_refuse({"model.rank00000.h5: found", "model.rank00001.h5 has that size: the file was swapped"});
}

TEST_F(RanksCheckpoint, ShardsOfAnotherRunOrDamaged) {
  const std::string other = small.train("other", {{"seed", 9}, {"train", {{"steps", 1}}}}, 2), good = text_of(model1);
  write_bytes(model1, text_of(other + "/step_00000001/model.rank00001.h5"));
  both_refuse({"model.rank00001.h5: found hash", "damaged or of another checkpoint"});
  std::string flipped = good;
  flipped[good.size() / 2] ^= 4;
  write_bytes(model1, flipped);
  both_refuse({"model.rank00001.h5: found hash"});
  write_bytes(model1, good.substr(0, good.size() / 2));
  both_refuse({"model.rank00001.h5: found", "truncated"});
}

TEST_F(RanksCheckpoint, NewerFormats) {
  const std::string good = text_of(manifest);
  change_manifest([](json& j) { j["format_version"] = 3; });
  both_refuse({"manifest.json: format_version: found 3, expected at most 2", "newer upcycle"});
  write_bytes(manifest, good);
  Hdf5File newer = Hdf5File::create(model1);
  Hdf5Attributes attributes;
  attributes.numbers = {{"format_version", {2}}, {"step", {1}}, {"rank", {1}}};
  newer.write_attributes(attributes);
  newer.close();
  change_manifest([&](json& j) {
    for (json& f : j["files"])
      if (f["name"] == "model.rank00001.h5") f["bytes"] = fs::file_size(model1), f["hash"] = hash_file(model1);
  });
  both_refuse({"model.rank00001.h5: format_version: found 2, expected at most 1", "newer upcycle"});
}

TEST_F(RanksCheckpoint, ARunFolderInUse) {
  fs::create_directory(file("fresh"));
  const FolderLock lock(run), other(file("fresh"));
  refused({train(2, config)}, {run, fmt::format("{}", getpid())});
  refused({train(4, fresh, {"--train.global_batch_size=8"})}, {file("fresh"), fmt::format("{}", getpid())});
}

TEST_F(RanksRefused, LayoutsAndFolders) {
  const std::string a =
      small.write_config("a", {{"model", {{"num_local_experts", 6}}}, {"train", {{"global_batch_size", 8}}}});
  refused({train(4, a, {"--parallel.ep=3"})}, {"parallel.ep=3 does not divide world=4", "ep=2"});
  refused({train(4, a, {"--parallel.ep=4"})}, {"num_local_experts = 6", "parallel.ep"});
  refused({train(4, a, {"--parallel.tp=4"})}, {"num_key_value_heads = 2", "parallel.tp <= 2"});
  refused({train(4, a, {"--parallel.tp=2", "--parallel.etp=4"})}, {"parallel.etp=4: must be 1"});
  small.folder.write("a_file", "x");
  refused({train(2, a, {"--checkpoint.dir=" + file("a_file")})}, {"a_file: cannot make the folder"});
  refused({train(2, a, {"--checkpoint.dir=/proc/none/run"})}, {"/proc/none/run: cannot make the folder"});
  // It is there, and no one may write in it, root included.
  refused({train(2, a, {"--checkpoint.dir=/proc/sys"})}, {"/proc/sys"});
}

}  // namespace
}  // namespace upcycle
