#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "core/error.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

struct Writer : testing::Test {
  TemporaryFolder folder;
  std::string run = folder.file("run");
  Mesh mesh = make_single_mesh();
  ModelConfig model = small_model(3);
  RankState state = rank_state(model, mesh.layout, 0, 2);

  CheckpointInfo info(std::int64_t step) const {
    CheckpointInfo i = some_info(model, step);
    i.optimizer_steps = state.steps;
    return i;
  }
  void save(CheckpointWriter& w, std::int64_t step, const std::vector<std::string>& travel = {}) {
    save_state(w, info(step), state, travel);
  }
  std::string error_of_save(CheckpointWriter& w, std::int64_t step) {
    try {
      save(w, step);
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "no Error";
    return "";
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& e : fs::directory_iterator(run))
      if (e.path().filename() != ".lock") found.push_back(e.path().filename());
    std::sort(found.begin(), found.end());
    return found;
  }
  using Names = std::vector<std::string>;
};

TEST_F(Writer, RoundTrip) {
  CheckpointWriter w(run, *mesh.world, 0);
  EXPECT_FALSE(w.busy());
  w.start(info(100), state.pieces, {});
  EXPECT_TRUE(w.busy());
  EXPECT_FALSE(is_checkpoint(run));
  w.finish();
  EXPECT_FALSE(w.busy());
  EXPECT_EQ(names(), (Names{"latest", "step_00000100"}));
  EXPECT_EQ(folder.read("run/latest"), named_step_text("step_00000100"));
  const auto c = open_checkpoint(run, true, mesh.world.get());
  expect_whole(*c);
  EXPECT_EQ(c->info().optimizer_steps, state.steps);
}

// Several saves under way: each is the state that it was given, published in order, and `keep` counts as ever.
TEST_F(Writer, SeveralUnderWay) {
  CheckpointWriter one(folder.file("one"), *mesh.world, 2);
  for (const std::int64_t step : {1, 2, 3}) save(one, step);
  CheckpointWriter w(run, *mesh.world, 2);
  std::vector<RankState> states;
  for (const std::int64_t step : {1, 2, 3}) {
    states.push_back(rank_state(model, mesh.layout, 0, 2));
    w.start(info(step), states.back().pieces, {});
    EXPECT_EQ(w.pending(), step);
  }
  EXPECT_THROW(w.start(info(2), state.pieces, {}), Error);  // that folder is taken
  for (const std::int64_t step : {1, 2, 3}) {
    EXPECT_EQ(w.oldest().step, step);
    w.finish();
    EXPECT_EQ(folder.read("run/latest"), named_step_text(step_folder_name(step)));
    states[static_cast<std::size_t>(step - 1)].values.clear();  // from here on its memory is the caller's again
  }
  EXPECT_FALSE(w.busy());
  EXPECT_EQ(names(), (Names{"latest", "step_00000002", "step_00000003"}));
  for (const char* file : {"model.rank00000.h5", "optimizer.rank00000.h5", "manifest.json"})
    EXPECT_EQ(folder.read(fmt::format("run/step_00000003/{}", file)),
              folder.read(fmt::format("one/step_00000003/{}", file)))
        << file;
}

// What a training loop does: it asks at each step, and goes on where advance() would wait.
TEST_F(Writer, AdvancesInTwoStages) {
  CheckpointWriter w(run, *mesh.world, 0);
  EXPECT_TRUE(w.ready());
  EXPECT_THROW(w.advance(), Error);  // nothing was started
  const auto wait = [&] {
    while (!w.ready()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  for (const std::int64_t step : {1, 2}) {
    w.start(info(step), state.pieces, {});
    wait();
    EXPECT_FALSE(w.advance());
    EXPECT_EQ(w.pending(), 1);
    wait();
    EXPECT_EQ(folder.read("run/latest"), named_step_text(step_folder_name(step)));
    EXPECT_TRUE(w.advance());
    EXPECT_FALSE(w.busy());
  }
  // One whose publishing fails, and one that is dropped while it is published.
  w.start(info(3), state.pieces, {});
  wait();
  fs::remove(run + "/step_00000003.tmp/model.rank00000.h5");
  EXPECT_FALSE(w.advance());
  wait();
  EXPECT_THROW(w.advance(), SaveFailed);
  EXPECT_EQ(names(), (Names{"latest", "step_00000001", "step_00000002"}));
  {
    CheckpointWriter other(folder.file("other"), *mesh.world, 0);
    other.start(info(1), state.pieces, {});
    while (!other.ready()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_FALSE(other.advance());
  }
  EXPECT_EQ(folder.read("other/latest"), named_step_text("step_00000001"));
}

// A writer that goes while several are under way waits for them, and leaves nothing of them.
TEST_F(Writer, SeveralUnderWayAreDropped) {
  {
    CheckpointWriter w(run, *mesh.world, 0);
    save(w, 1);
    for (const std::int64_t step : {2, 3, 4}) w.start(info(step), state.pieces, {});
  }
  EXPECT_EQ(names(), (Names{"latest", "step_00000001"}));
}

TEST_F(Writer, ReadsWhileItWrites) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, 1);
  const auto c = open_checkpoint(run);
  w.start(info(2), state.pieces, {});
  expect_whole(*c);
  w.finish();
  EXPECT_EQ(open_checkpoint(run)->info().step, 2);
  expect_whole(*c);
}

TEST_F(Writer, EqualStatesMakeEqualFiles) {
  CheckpointWriter a(folder.file("a"), *mesh.world, 0), b(folder.file("b"), *mesh.world, 0);
  save(a, 1);
  save(b, 1);
  for (const char* file : {"model.rank00000.h5", "optimizer.rank00000.h5", "manifest.json"})
    EXPECT_EQ(folder.read(fmt::format("a/step_00000001/{}", file)),
              folder.read(fmt::format("b/step_00000001/{}", file)))
        << file;
}

TEST_F(Writer, FilesTravelAlong) {
  const std::string tokenizer = folder.write("t.model", std::string(3000000, 'x'));
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, 1, {tokenizer});
  const auto c = open_checkpoint(run);
  EXPECT_EQ(c->info().tokenizer, "t.model");
  EXPECT_EQ(folder.read("run/step_00000001/t.model"), std::string(3000000, 'x'));
  folder.write("run/step_00000001/t.model", std::string(3000000, 'y'));
  expect_input_error([&] { open_checkpoint(run); }, {"t.model", "hash"});
}

TEST_F(Writer, KeepsTheNewest) {
  CheckpointWriter w(run, *mesh.world, 2);
  for (const std::int64_t step : {5, 90, 100, 101}) save(w, step);
  EXPECT_EQ(names(), (Names{"latest", "step_00000100", "step_00000101"}));
  CheckpointWriter other(folder.file("other"), *mesh.world, 0);
  for (const std::int64_t step : {1, 2, 3}) save(other, step);
  EXPECT_TRUE(fs::exists(folder.file("other/step_00000001")));
}

// Weights alone.
struct Models : Writer {
  CheckpointInfo alone(std::int64_t step, DType type) const {
    CheckpointInfo i = some_info(model, step);
    i.weights_alone = type;
    return i;
  }
  static float bounded(float x) { return std::clamp(x, -1e38f, 1e38f); }
  void save_model(CheckpointWriter& w, std::int64_t step, DType type = DType::BF16) {
    std::vector<SavedPiece> masters;
    for (SavedPiece p : state.pieces) {
      if (p.kind != StateKind::Master) continue;
      if (type == DType::BF16)  // the largest numbers would round to infinity
        for (std::int64_t i = 0; i < p.part.size(); ++i) const_cast<float*>(p.values)[i] = bounded(p.values[i]);
      p.type = type;
      masters.push_back(p);
    }
    w.start(alone(step, type), masters, {});
    w.finish();
  }
};

TEST_F(Models, AreBesideTheStepsAndNotCounted) {
  CheckpointWriter w(run, *mesh.world, 1);
  save_model(w, 1, DType::F32);
  EXPECT_FALSE(is_checkpoint(run));
  save(w, 2);
  save_model(w, 2, DType::F32);
  save_model(w, 3);
  save(w, 4);
  EXPECT_EQ(names(), (Names{"latest", "model_00000001", "model_00000002", "model_00000003", "step_00000004"}));
  EXPECT_EQ(newer_models(run), Names{});
  EXPECT_FALSE(open_checkpoint(run)->info().weights_alone);
  const auto whole = open_checkpoint(run + "/model_00000002"), rounded = open_checkpoint(run + "/model_00000003");
  EXPECT_EQ(whole->info().weights_alone, DType::F32);
  expect_whole(*whole, 0);
  EXPECT_EQ(rounded->info().weights_alone, DType::BF16);
  EXPECT_EQ(rounded->info().step, 3);
  EXPECT_EQ(rounded->moments(), 0);
  EXPECT_TRUE(rounded->info().optimizer_steps.empty());
  for (const auto& t : rounded->tensors()) {
    const Rectangle all{0, 0, t.rows, t.columns};
    std::vector<float> got(static_cast<std::size_t>(all.size())), want = values_of(StateKind::Master, t.name, all);
    rounded->read(t.name, all, got.data());
    for (float& x : want) x = to_float(to_bf16(bounded(x)));
    EXPECT_TRUE(same_bits(got, want)) << t.name;
  }
}

// Killed at any point, one of the two is there, whole.
TEST_F(Models, KilledWhilePublishing) {
  {
    CheckpointWriter w(run, *mesh.world, 0);
    save(w, 1);
    save_model(w, 2, DType::F32);
    save_model(w, 3, DType::F32);
  }
  const std::string folder_3 = run + "/model_00000003";
  const auto restart = [&] {
    CheckpointWriter(run, *mesh.world, 0);
    EXPECT_EQ(names(), (Names{"latest", "model_00000002", "model_00000003", "step_00000001"}));
    expect_whole(*open_checkpoint(run));
    return read_manifest(folder_3).info.step;
  };
  fs::copy(run + "/model_00000002", folder_3 + ".tmp");  // before anything was moved
  EXPECT_EQ(restart(), 3);
  fs::copy(run + "/model_00000002", folder_3 + ".tmp");  // the old one set aside
  fs::rename(folder_3, folder_3 + ".old");
  EXPECT_EQ(restart(), 3);
  fs::rename(folder_3, folder_3 + ".old");  // the new one in its place
  fs::copy(run + "/model_00000002", folder_3);
  EXPECT_EQ(restart(), 2);
}

TEST_F(Models, PublishingThatFailsPutsTheOldOneBack) {
  CheckpointWriter w(run, *mesh.world, 0);
  save_model(w, 3);
  fs::create_directories(run + "/model_00000003.old/x");  // nothing can be renamed to it
  EXPECT_THROW(save_model(w, 3), Error);
  EXPECT_EQ(names(), Names{"model_00000003"});
  EXPECT_EQ(open_checkpoint(run + "/model_00000003")->info().step, 3);
  save_model(w, 3);
}

TEST_F(Writer, APublishedStepIsNotReplaced) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, 5);
  const std::string before = folder.read("run/step_00000005/manifest.json");
  EXPECT_TRUE(contains(error_of_save(w, 5), "step_00000005: is there already"));
  EXPECT_EQ(names(), (Names{"latest", "step_00000005"}));
  EXPECT_EQ(folder.read("run/step_00000005/manifest.json"), before);
  save(w, 6);
  EXPECT_EQ(open_checkpoint(run)->info().step, 6);
}

TEST_F(Writer, DiskFullLeavesNothing) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, 1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t bytes : {rlim_t{100}, rlim_t{20000}}) {
    const rlimit small{bytes, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message = error_of_save(w, 2);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_TRUE(contains(message, "step 2 was not saved"));
    EXPECT_TRUE(contains(message, "rank00000.h5"));
    EXPECT_EQ(names(), (Names{"latest", "step_00000001"}));
    EXPECT_EQ(open_checkpoint(run)->info().step, 1);
  }
  signal(SIGXFSZ, old);
  save(w, 2);
  EXPECT_EQ(open_checkpoint(run)->info().step, 2);
}

TEST_F(Writer, AFolderThatCanNotBeMadeLeavesNothing) {
  CheckpointWriter w(run, *mesh.world, 0);
  folder.write("run/step_00000002.tmp", "in the way");
  EXPECT_TRUE(contains(error_of_save(w, 2), "step_00000002.tmp"));
  EXPECT_EQ(names(), Names{});
}

// `latest` can not be written: the step that was renamed already is taken back.
TEST_F(Writer, PublishingThatFailsAtTheEndIsUndone) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, 1);
  fs::create_directories(folder.file("run/latest.tmp/x"));
  EXPECT_TRUE(contains(error_of_save(w, 2), "latest.tmp"));
  fs::remove_all(folder.file("run/latest.tmp"));
  EXPECT_EQ(names(), (Names{"latest", "step_00000001"}));
  EXPECT_EQ(open_checkpoint(run)->info().step, 1);
}

TEST_F(Writer, AnUnwritableFolderIsRefusedAtOnce) {
  folder.write("file", "");
  expect_input_error([&] { CheckpointWriter(folder.file("file"), *mesh.world, 0); }, {"file"});
  expect_input_error([&] { CheckpointWriter(folder.file("file/run"), *mesh.world, 0); }, {"file/run"});
}

TEST_F(Writer, OneRunAtATime) {
  const CheckpointWriter w(run, *mesh.world, 0);
  expect_input_error([&] { CheckpointWriter(run, *mesh.world, 0); }, {"run", "in use"});
}

TEST_F(Writer, DroppedWithoutFinishLeavesNothing) {
  {
    CheckpointWriter w(run, *mesh.world, 0);
    w.start(info(3), state.pieces, {});
  }
  EXPECT_EQ(names(), Names{});
}

TEST_F(Writer, AKilledRunsLeftoversAreIgnoredAndRemoved) {
  {
    CheckpointWriter w(run, *mesh.world, 0);
    save(w, 1);
  }
  fs::copy(folder.file("run/step_00000001"), folder.file("run/step_00000002.tmp"));
  fs::remove(folder.file("run/step_00000002.tmp/manifest.json"));
  EXPECT_EQ(open_checkpoint(run)->info().step, 1);
  // Killed between the rename and `latest`.
  fs::copy(folder.file("run/step_00000001"), folder.file("run/step_00000003"));
  folder.write("run/publishing", "step_00000003\n");
  EXPECT_EQ(open_checkpoint(run)->info().step, 1);
  CheckpointWriter w(run, *mesh.world, 0);
  EXPECT_EQ(names(), (Names{"latest", "step_00000001"}));
  save(w, 3);
  EXPECT_EQ(open_checkpoint(run)->info().step, 3);
}

// Killed after `latest`, before the mark went.
TEST_F(Writer, AMarkOfAPublishedStepRemovesNothing) {
  {
    CheckpointWriter w(run, *mesh.world, 0);
    save(w, 1);
  }
  folder.write("run/publishing", "step_00000001\n");
  const CheckpointWriter w(run, *mesh.world, 0);
  EXPECT_EQ(names(), (Names{"latest", "step_00000001"}));
}

// `latest` set back by hand, as after a loss spike: later steps are replaced when the run reaches them.
struct Rewound : Writer {
  // Steps 1 to 5 with `latest` set back to 2; what training saves after that has other token counts.
  Rewound() {
    CheckpointWriter w(run, *mesh.world, 0);
    for (const std::int64_t step : {1, 2, 3, 4, 5}) Writer::save(w, step);
    folder.write("run/latest", "step_00000002\n");
  }
  void save_again(CheckpointWriter& w, std::int64_t step) {
    CheckpointInfo i = info(step);
    i.tokens = 7;
    w.start(i, state.pieces, {});
    w.finish();
  }
  std::int64_t tokens_of(std::int64_t step) const {
    return read_manifest(run + "/" + step_folder_name(step)).info.tokens;
  }
  // Every step that was there before, as it was.
  void expect_as_before() {
    EXPECT_EQ(names(), before);
    for (const std::int64_t step : {1, 2, 3, 4, 5}) EXPECT_EQ(tokens_of(step), 512 * step) << step;
    expect_whole(*open_checkpoint(run + "/step_00000003"));
  }
  Names before{"latest", "step_00000001", "step_00000002", "step_00000003", "step_00000004", "step_00000005"};
  const std::string old_step = run + "/step_00000003", aside = old_step + ".old", made = old_step + ".tmp";
};

TEST_F(Rewound, NewerStepsGiveWayAsTheRunComesToThem) {
  EXPECT_EQ(newer_steps(run), (Names{"step_00000003", "step_00000004", "step_00000005"}));
  EXPECT_EQ(open_checkpoint(run)->info().step, 2);
  CheckpointWriter w(run, *mesh.world, 0);
  expect_as_before();
  save_again(w, 3);
  EXPECT_EQ(names(), before);
  EXPECT_EQ(tokens_of(3), 7);
  EXPECT_EQ(tokens_of(4), 512 * 4);
  EXPECT_EQ(read_latest(run), "step_00000003");
  expect_whole(*open_checkpoint(run));
  // A step that the run passes belongs to the abandoned training.
  save_again(w, 6);
  EXPECT_EQ(names(), (Names{"latest", "step_00000001", "step_00000002", "step_00000003", "step_00000006"}));
  EXPECT_EQ(newer_steps(run), Names{});
}

TEST_F(Rewound, StepsUpToLatestAreNotReplaced) {
  CheckpointWriter w(run, *mesh.world, 0);
  for (const std::int64_t step : {1, 2}) EXPECT_TRUE(contains(error_of_save(w, step), "is there already"));
  expect_as_before();
}

TEST_F(Rewound, NewerStepsAreNotCountedAmongThoseKept) {
  CheckpointWriter w(run, *mesh.world, 2);
  save_again(w, 3);
  EXPECT_EQ(names(), (Names{"latest", "step_00000002", "step_00000003", "step_00000004", "step_00000005"}));
  save_again(w, 5);
  EXPECT_EQ(names(), (Names{"latest", "step_00000003", "step_00000005"}));
}

TEST_F(Rewound, PublishingThatFailsPutsTheOldStepBack) {
  CheckpointWriter w(run, *mesh.world, 0);
  fs::create_directories(folder.file("run/latest.tmp/x"));
  EXPECT_TRUE(contains(error_of_save(w, 4), "latest.tmp"));
  fs::remove_all(folder.file("run/latest.tmp"));
  expect_as_before();
  save_again(w, 4);
  EXPECT_EQ(tokens_of(4), 7);
}

// Killed at any point, nothing is lost: the old step is back, or the new one is the run's.
TEST_F(Rewound, KilledWhileItReplaces) {
  const auto restart = [&] { CheckpointWriter(run, *mesh.world, 0); };
  const auto write_new = [&](const std::string& at) {
    fs::copy(folder.file("run/step_00000001"), at);  // any whole step
  };
  // Before anything was moved.
  write_new(made);
  restart();
  expect_as_before();
  // After the old one was set aside.
  write_new(made);
  fs::rename(old_step, aside);
  restart();
  expect_as_before();
  // ... and the mark written.
  write_new(made);
  fs::rename(old_step, aside);
  folder.write("run/publishing", "step_00000003\n");
  restart();
  expect_as_before();
  // ... and the new one put in its place.
  fs::rename(old_step, aside);
  write_new(old_step);
  folder.write("run/publishing", "step_00000003\n");
  restart();
  expect_as_before();
  // ... and then `latest` set by hand to another step, of the abandoned training.
  fs::rename(old_step, aside);
  write_new(old_step);
  folder.write("run/publishing", "step_00000003\n");
  folder.write("run/latest", "step_00000005\n");
  restart();
  expect_as_before();
  // ... or to the one that has not been put there yet.
  fs::rename(old_step, aside);
  write_new(made);
  folder.write("run/publishing", "step_00000003\n");
  folder.write("run/latest", "step_00000003\n");
  restart();
  expect_as_before();
  // After `latest`: the new one stays.
  fs::rename(old_step, aside);
  write_new(old_step);
  folder.write("run/publishing", "step_00000003\n");
  restart();
  EXPECT_EQ(names(), before);
  EXPECT_EQ(tokens_of(3), 512);
}

}  // namespace
}  // namespace upcycle::test
