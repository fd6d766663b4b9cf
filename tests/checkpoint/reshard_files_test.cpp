#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/reshard.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

// A checkpoint without files: every value is 1. It records the largest read, and can be made to fail.
struct Source : Checkpoint {
  CheckpointInfo facts;
  std::string folder;
  std::vector<TensorShape> shapes;
  std::vector<FileEntry> no_files;
  std::int64_t largest = 0, reads = 0, failing_read = -1;

  Source(const ModelConfig& model, const std::string& where) : folder(where) {
    facts = some_info(model, 3);
    for (const ParamRow& row : make_global_table(model).rows)
      shapes.push_back({row.name, row.rows, row.columns, row.is_vector});
  }
  const std::string& name() const override { return folder; }
  const ModelConfig& model() const override { return facts.model; }
  bool has(const std::string&) const override { return true; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    read_state(StateKind::Master, tensor, part, out);
  }
  const CheckpointInfo& info() const override { return facts; }
  const std::string& directory() const override { return folder; }
  int moments() const override { return 0; }
  void read_state(StateKind, const std::string& tensor, const Rectangle& part, float* out) override {
    if (reads++ == failing_read) input_error("{}: can not be read", tensor);
    largest = std::max(largest, part.size());
    std::fill(out, out + part.size(), 1.0f);
  }
  const std::vector<TensorShape>& tensors() const override { return shapes; }
  const std::vector<FileEntry>& files() const override { return no_files; }
};

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

TEST(ReshardFiles, ALargeTensorGoesThroughABoundedBuffer) {
  const TemporaryFolder folder;
  ModelConfig model = small_model(0);
  model.hidden_size = 600;
  model.vocab_size = 20001;  // 12 M elements: 48 MB
  model.num_hidden_layers = 1;
  model.tie_word_embeddings = true;
  Source source(model, folder.file("source"));
  reshard(source, folder.file("out"), make_layout(1, 1, 1, 1));
  const auto c = open_checkpoint(folder.file("out"));
  EXPECT_LE(source.largest, std::int64_t{8} << 20);
  EXPECT_GT(source.largest, std::int64_t{7} << 20);
  float last = 0;
  c->read("model.embed_tokens.weight", {20000, 599, 1, 1}, &last);
  EXPECT_EQ(last, 1.0f);
}

TEST(ReshardFiles, AFailureLeavesNothing) {
  const TemporaryFolder folder;
  Source source(small_model(4), folder.file("source"));
  const Layout layout = make_layout(4, 2, 2, 1);
  fs::create_directory(folder.file("empty"));
  for (const std::int64_t at : {0, 30, 60}) {
    source.reads = 0;
    source.failing_read = at;
    expect_input_error([&] { reshard(source, folder.file("out"), layout); }, {"can not be read"});
    EXPECT_FALSE(fs::exists(folder.file("out"))) << at;
    source.reads = 0;
    expect_input_error([&] { reshard(source, folder.file("empty"), layout); }, {"can not be read"});
    EXPECT_EQ(names_in(folder.file("empty")), std::vector<std::string>{".lock"}) << at;
  }
  source.failing_read = -1;
  reshard(source, folder.file("empty"), layout);
  EXPECT_EQ(open_checkpoint(folder.file("empty"))->info().layout.ep, 2);
}

// Remains of a killed attempt are no reason to refuse; any file of the user's is.
TEST(ReshardFiles, TakesOverOnlyItsOwnRemains) {
  const TemporaryFolder folder;
  Source source(small_model(0), folder.file("source"));
  const std::string out = folder.file("out");
  fs::create_directories(out + "/step_00000003.tmp/model.rank00000.h5");
  reshard(source, out, make_layout(2, 2, 1, 1));
  EXPECT_EQ(open_checkpoint(out)->files().size(), 2u);
  expect_input_error([&] { reshard(source, out, make_layout(2, 2, 1, 1)); }, {"found", "expected an empty folder"});
  expect_input_error([&] { reshard(source, folder.file("other"), make_layout(4, 4, 1, 1)); }, {"num_key_value_heads"});
  EXPECT_FALSE(fs::exists(folder.file("other")));
}

}  // namespace
}  // namespace upcycle::test
