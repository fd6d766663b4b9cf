#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "core/error.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/verify.h"
#include "parallel/checkpoint/writer.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"
#include "tests/source_root.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

// A run of three steps, of which the newest is injured.
struct Injuries : testing::Test {
  TemporaryFolder folder;
  std::string run = folder.file("run");
  Mesh mesh = make_single_mesh();
  ModelConfig model = small_model(3);
  RankState state = rank_state(model, mesh.layout, 0, 2);
  const std::string newest = "step_00000003", before = "step_00000002";

  Injuries() {
    const std::string tokenizer = folder.write("t.model", std::string(700, 'x'));
    CheckpointWriter w(run, *mesh.world, 0);
    for (const std::int64_t step : {1, 2, 3}) save_state(w, some_info(model, step), state, {tokenizer});
  }
  std::string used(std::string* said = nullptr) {
    testing::internal::CaptureStderr();
    const std::string found = newest_intact_step(run, *mesh.world);
    const std::string text = testing::internal::GetCapturedStderr();
    if (said != nullptr) *said = text;
    return fs::path(found).filename();
  }
  std::string path(const std::string& step, const std::string& file) const { return "run/" + step + "/" + file; }
};

using Random = std::mt19937_64;

// One of the things that happen to files. `other`: the file of the same name of another step; `neighbour`: another file
// of the same step.
std::optional<std::string> injure(const std::string& good, const std::string& other, const std::string& neighbour,
                                  Random& random) {
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::string bad = good;
  switch (below(11)) {
    case 0:  // a flipped bit
      bad[below(bad.size())] ^= static_cast<char>(1 << below(8));
      return bad;
    case 1:  // another byte
      bad[below(bad.size())] = static_cast<char>(below(256));
      return bad;
    case 2:
    case 3: {  // a block of zeros, or of anything
      const bool zeros = below(2) == 0;
      const std::size_t n = 1 + below(std::min<std::size_t>(bad.size(), 4096)), at = below(bad.size() - n + 1);
      for (std::size_t i = at; i < at + n; ++i) bad[i] = zeros ? '\0' : static_cast<char>(below(256));
      return bad;
    }
    case 4:
      return bad.substr(0, below(bad.size()));  // cut
    case 5:
      return "";
    case 6:
      return other;
    case 7:
      return neighbour;
    case 8: {  // longer, by zeros or by its own bytes
      const std::size_t n = 1 + below(8192);
      return below(2) == 0 ? good + std::string(n, '\0') : good + good.substr(0, n);
    }
    case 9: {  // a page of zeros, as a file system leaves it that lost power
      const std::size_t at = below((bad.size() + 4095) / 4096) * 4096;
      return bad.replace(at, std::min<std::size_t>(4096, bad.size() - at), std::min<std::size_t>(4096, bad.size() - at),
                         '\0');
    }
    default:
      return std::nullopt;  // no such file
  }
}

// Flipped, zeroed, cut, emptied, longer, missing, stale or swapped, any file: noticed and said, by whoever is given the
// step's path too; the newest intact step is used, the damaged one set aside.
TEST_F(Injuries, AreAllNoticed) {
  const char* given = std::getenv("UPCYCLE_INJURIES");
  const int wanted = given != nullptr ? std::atoi(given) : 150;
  constexpr int seed = 20261;
  Random random(seed);
  std::vector<std::string> files{"latest"};
  for (const auto& entry : fs::directory_iterator(run + "/" + newest)) files.push_back(entry.path().filename());
  std::sort(files.begin(), files.end());
  ASSERT_EQ(files.size(), 5u);
  std::map<std::string, int> noticed;
  const std::string latest = folder.read("run/latest");
  int injuries = 0;
  while (injuries < wanted) {
    const std::string& file = files[random() % files.size()];
    const bool of_latest = file == "latest";
    const std::string name = of_latest ? "run/latest" : path(newest, file);
    const std::string good = folder.read(name),
                      other = of_latest ? named_step_text(before).substr(0, 40) : folder.read(path(before, file));
    const std::string& beside = files[random() % files.size()];
    const std::string neighbour = folder.read(beside == "latest" ? "run/latest" : path(newest, beside));
    const std::optional<std::string> bad = injure(good, other, neighbour, random);
    if (bad == good) continue;
    ++injuries;
    if (bad)
      folder.write(name, *bad);
    else
      fs::remove(folder.file(name));
    if (!of_latest) {
      ASSERT_THROW(open_checkpoint(run + "/" + newest), InputError) << injuries << ": " << file;
    }
    std::string said;
    const std::string step = used(&said);
    const bool right = step == (of_latest ? newest : before) && contains(said, of_latest ? "latest" : newest + "/") &&
                       folder.read("run/latest") == named_step_text(step);
    // A cut that leaves `latest` its first line leaves what a hand would write there: said, and nothing to mend.
    const bool whole_name = of_latest && bad && (*bad == newest || *bad == newest + "\n");
    ASSERT_TRUE(right || (whole_name && step == newest)) << injuries << ": " << file << ": " << said;
    ++noticed[file];
    if (!of_latest) {
      ASSERT_TRUE(fs::exists(folder.file("run/" + newest + ".damaged")));
      fs::rename(folder.file("run/" + newest + ".damaged"), folder.file("run/" + newest));
    }
    folder.write(name, good);
    folder.write("run/latest", latest);
  }
  EXPECT_EQ(used(), newest);
  expect_whole(*open_checkpoint(run));
  std::string each;
  for (const auto& [file, n] : noticed) each += fmt::format(", {} in {}", n, file);
  std::printf("%d random injuries (seed %d), all noticed%s\n", injuries, seed, each.c_str());
}

// Longer than such a file ever is: it is damaged, as one of other contents is, and no reason to end the run.
TEST_F(Injuries, ALatestOfAnyLength) {
  folder.write("run/latest", std::string(1 << 20, 's'));
  std::string said;
  EXPECT_EQ(used(&said), newest);
  EXPECT_TRUE(contains(said, "run/latest: found 1048576 bytes, expected"));
  EXPECT_EQ(read_latest(run), newest);
}

TEST_F(Injuries, SeveralDamagedStepsAreSetAside) {
  folder.write(path(newest, "t.model"), "");
  fs::remove_all(folder.file("run/" + before + "/manifest.json"));
  std::string said;
  EXPECT_EQ(used(&said), "step_00000001");
  for (const char* part :
       {"step_00000003/t.model: found 0 bytes, expected 700", "set aside as", "step_00000003.damaged",
        "step_00000002/manifest.json: found no such file", "step_00000001 is the newest intact step"})
    EXPECT_TRUE(contains(said, part));
  EXPECT_EQ(published_steps(run), std::vector<std::string>{"step_00000001"});
  EXPECT_EQ(read_latest(run), "step_00000001");
  // A second damage of the same step, trained again, takes another name.
  fs::rename(folder.file("run/step_00000001"), folder.file("kept"));
  fs::copy(folder.file("kept"), folder.file("run/step_00000001"));
  fs::copy(folder.file("kept"), folder.file("run/step_00000003"));
  write_latest(run, newest);
  EXPECT_EQ(used(), "step_00000003");
  folder.write(path(newest, "t.model"), "");
  EXPECT_EQ(used(), "step_00000001");
  EXPECT_TRUE(fs::exists(folder.file("run/step_00000003.damaged2/t.model")));
}

TEST_F(Injuries, WhereNoneIsIntactNothingIsChanged) {
  for (const char* step : {"step_00000001", "step_00000002", "step_00000003"}) folder.write(path(step, "t.model"), "");
  expect_input_error([&] { newest_intact_step(run, *mesh.world); },
                     {"step_00000003/t.model", "any of the 2 steps before it", "step_00000002/t.model"});
  EXPECT_EQ(published_steps(run).size(), 3u);
  EXPECT_EQ(read_latest(run), newest);
}

// A link that leads round in a circle can not be read; whether its bytes are lost is not known.
TEST_F(Injuries, WhatCanNotBeReadIsNotSetAside) {
  fs::remove(folder.file(path(newest, "t.model")));
  fs::create_symlink("t.model", folder.file(path(newest, "t.model")));
  expect_input_error([&] { newest_intact_step(run, *mesh.world); }, {"t.model"});
  EXPECT_EQ(published_steps(run).size(), 3u);
}

TEST_F(Injuries, StepsBeyondALatestThatWasSetBackAreNotUsed) {
  folder.write("run/latest", before + "\n");
  std::string said;
  EXPECT_EQ(used(&said), before);
  EXPECT_TRUE(contains(said, "written by hand"));
  folder.write(path(before, "t.model"), "");
  EXPECT_EQ(used(), "step_00000001");
  EXPECT_TRUE(fs::exists(folder.file("run/" + newest)));
  folder.write("run/latest", "step_00000009\n");
  expect_input_error([&] { newest_intact_step(run, *mesh.world); }, {"run/latest", "found step_00000009"});
}

TEST_F(Injuries, AStepThatIsGone) {
  fs::remove_all(folder.file("run/" + newest));
  std::string said;
  EXPECT_EQ(used(&said), before);
  EXPECT_TRUE(contains(said, "step_00000003: is gone, though latest names it"));
  fs::remove_all(folder.file("run/" + before));
  fs::remove_all(folder.file("run/step_00000001"));
  expect_input_error([&] { newest_intact_step(run, *mesh.world); }, {"run", "found no step in it"});
  fs::remove(folder.file("run/latest"));
  EXPECT_EQ(used(), "");
}

// Saved by version 1 of the format: no hash of the manifest, a `latest` of one line.
TEST(EarlierFormat, IsRead) {
  TemporaryFolder folder;
  fs::copy(tests_root() / "checkpoint/format_1", folder.path / "run", fs::copy_options::recursive);
  const Mesh mesh = make_single_mesh();
  const std::string run = folder.file("run");
  EXPECT_EQ(newest_intact_step(run, *mesh.world), run + "/step_00000002");
  const auto c = open_checkpoint(run);
  EXPECT_EQ(c->info().step, 2);
  EXPECT_EQ(c->moments(), 2);
  double sum = 0;
  for (const auto& t : c->tensors()) {
    std::vector<float> values(static_cast<std::size_t>(t.rows * t.columns));
    for (const StateKind kind : {StateKind::Master, StateKind::Moment1, StateKind::Moment2}) {
      c->read_state(kind, t.name, {0, 0, t.rows, t.columns}, values.data());
      for (const float x : values) sum += std::abs(x);
    }
  }
  EXPECT_NEAR(sum, 82.160046632048633, 1e-9);
  for (const char* file : {"model.rank00000.h5", "optimizer.rank00000.h5"}) {
    std::string bytes = folder.read("run/step_00000002/" + std::string(file));
    bytes[bytes.size() / 2] ^= 1;
    TemporaryFolder other;
    fs::copy(run, other.file("run"), fs::copy_options::recursive);
    other.write("run/step_00000002/" + std::string(file), bytes);
    EXPECT_EQ(verify_step(other.file("run/step_00000002"), *mesh.world).kind, Verdict::Kind::Damaged);
  }
}

}  // namespace
}  // namespace upcycle::test
