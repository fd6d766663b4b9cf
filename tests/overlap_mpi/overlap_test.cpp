#include <fmt/core.h>
#include <gtest/gtest.h>

#include "tests/forwarding_communicator.h"
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// The order in which transfers are issued, work is done and transfers are waited for: transfers must overlap with work
// that does not need them.
namespace upcycle::test {
namespace {

// "dispatch 1" issued, "wait 1", "work" (one or more pieces of matrix products and attention in a row), "sum 3" ...
class Journal {
 public:
  Event issued(const char* what, const Event& event) {
    EXPECT_NE(event.work, nullptr) << what << ": done when the call returned";
    events_.push_back(event);
    lines.push_back(fmt::format("{} {}", what, events_.size()));
    return event;
  }
  void waited(const Event& event) {
    for (std::size_t i = 0; i < events_.size(); ++i)
      if (events_[i].work == event.work && events_[i].ticket == event.ticket)
        lines.push_back(fmt::format("wait {}", i + 1));
  }
  void worked() {
    if (lines.empty() || lines.back() != "work") lines.push_back("work");
  }
  std::vector<std::string> lines;

 private:
  std::vector<Event> events_;
};

class JournalStream final : public Stream {
 public:
  explicit JournalStream(Journal& journal) : journal_(journal) {}
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  Event record() override { return {}; }
  void wait(const Event& event) override {
    journal_.waited(event);
    test_stream().wait(event);
  }
  void synchronize() override {}
  void* native() override { return nullptr; }
  void attach(Progress& progress) override { test_stream().attach(progress); }
  void detach(Progress& progress) override { test_stream().detach(progress); }
  void poll() override {
    journal_.worked();
    test_stream().poll();
  }

 private:
  Journal& journal_;
};

// Records the calls that the trainer may leave in flight; forwards everything else.
class JournalCommunicator final : public ForwardingCommunicator {
 public:
  JournalCommunicator(std::shared_ptr<Communicator> inner, Journal& journal)
      : ForwardingCommunicator(std::move(inner)), journal_(journal) {}
  Event reduce_scatter(const Tensor& out, const Tensor& in) override {
    return journal_.issued("sum", inner().reduce_scatter(out, in));
  }
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override {
    return journal_.issued("dispatch", inner().all_to_all_v(out, recv_counts, in, send_counts));
  }

 private:
  Journal& journal_;
};

class JournalAllGather final : public ForwardingCommunicator {
 public:
  JournalAllGather(std::shared_ptr<Communicator> inner, Journal& journal)
      : ForwardingCommunicator(std::move(inner)), journal_(journal) {}
  Event all_gather(const Tensor& out, const Tensor& in) override {
    return journal_.issued("gather", inner().all_gather(out, in));
  }

 private:
  Journal& journal_;
};

class JournalAllReduce final : public ForwardingCommunicator {
 public:
  JournalAllReduce(std::shared_ptr<Communicator> inner, Journal& journal)
      : ForwardingCommunicator(std::move(inner)), journal_(journal) {}
  Event all_reduce(const Tensor& data) override { return journal_.issued("sum", inner().all_reduce(data)); }

 private:
  Journal& journal_;
};

Config one_moe_layer(std::int64_t chunks) {
  Config c = small_moe_config();
  c.model.num_hidden_layers = 1;
  c.train.global_batch_size = 4;
  c.parallel.dispatch_chunks = chunks;
  return c;
}

// The record of what `run` does with a fresh trainer on two ranks (by default a step's gradients), from the groups that
// `watch` puts into the mesh.
using Watch = std::function<void(Mesh&, Journal&)>;
using Run = std::function<void(Trainer&, const SequenceSource&)>;
std::vector<std::string> journal_of(
    const Config& config, int tp, int ep, const Watch& watch,
    const Run& run = [](Trainer& t, const SequenceSource& source) { (void)compute_gradients(t, source); }) {
  Journal journal;
  Mesh mesh = make_test_mesh(tp, ep);
  watch(mesh, journal);
  Rig rig;
  rig.stream = std::make_unique<JournalStream>(journal);
  Trainer t = random_trainer(rig, config, mesh);
  const FixedSequences sequences = random_sequences(8, config.train.seq_length, config.model.vocab_size, 3);
  journal.lines.clear();
  run(t, sequences.source());
  return journal.lines;
}
std::vector<std::string> dispatch_journal(const Config& config) {
  return journal_of(config, 1, 2, [](Mesh& mesh, Journal& journal) {
    mesh.ep = std::make_shared<JournalCommunicator>(mesh.ep, journal);
  });
}

using Lines = std::vector<std::string>;

TEST(Overlap, ChunksOverlapWithTheExpertsProducts) {
  // Attention and router; three chunks out; each is computed when it has arrived and is sent back; the head; backward:
  // alike, and a chunk's input gradient leaves before its last weight gradient is computed.
  const Lines forward = {"work",       "dispatch 1", "dispatch 2", "dispatch 3", "wait 1", "work",
                         "dispatch 4", "wait 2",     "work",       "dispatch 5", "wait 3", "work",
                         "dispatch 6", "wait 4",     "wait 5",     "wait 6"};
  const Lines backward = {"work",        "dispatch 7", "dispatch 8", "dispatch 9",  "wait 7",  "work",   "dispatch 10",
                          "work",        "wait 8",     "work",       "dispatch 11", "work",    "wait 9", "work",
                          "dispatch 12", "work",       "wait 10",    "wait 11",     "wait 12", "work"};
  Lines want = forward;
  want.insert(want.end(), backward.begin(), backward.end());
  EXPECT_EQ(dispatch_journal(one_moe_layer(3)), want);
}

TEST(Overlap, TheSharedExpertIsComputedWhileTokensTravel) {
  Config config = one_moe_layer(1);
  config.model.shared_expert = true;
  const Lines want = {"work", "dispatch 1", "work", "wait 1", "work", "dispatch 2", "wait 2",  // forward
                      "work", "dispatch 3", "work", "wait 3", "work", "dispatch 4", "work",   "wait 4", "work"};
  EXPECT_EQ(dispatch_journal(config), want);
}

// Only in the last microbatch, every bucket's sum starts when its last gradient is complete, overlapping with the
// layers below.
TEST(Overlap, GradientSumsOverlapWithTheBackward) {
  Config config = small_config();
  config.train.global_batch_size = 8;  // two microbatches per rank
  const Lines want = {"work",  "sum 1",  "work",   "sum 2",  "work",  "sum 3",
                      "sum 4", "wait 1", "wait 2", "wait 3", "wait 4"};
  EXPECT_EQ(journal_of(config, 1, 1,
                       [](Mesh& mesh, Journal& journal) {
                         mesh.dp = std::make_shared<JournalCommunicator>(mesh.dp, journal);
                       }),
            want);
}

// Under ZeRO-2 that happens in every microbatch; a part is computed while the one before it is summed, and only then
// takes the memory of those before that. The last sums of a microbatch travel under the next one's forward.
TEST(Overlap, SumsOfEachMicrobatchOverlapWithTheNextPartsBackward) {
  Config config = small_config();
  config.train.global_batch_size = 8;
  config.train.zero_stage = 2;
  const Lines want = {"work",   "sum 1",  "work",  "sum 2",  "wait 1", "work",   "sum 3", "wait 2",
                      "sum 4",  "wait 3", "work",  "wait 4", "work",   "sum 5",  "work",  "sum 6",
                      "wait 5", "work",   "sum 7", "wait 6", "sum 8",  "wait 7", "wait 8"};
  EXPECT_EQ(journal_of(config, 1, 1,
                       [](Mesh& mesh, Journal& journal) {
                         mesh.dp = std::make_shared<JournalCommunicator>(mesh.dp, journal);
                       }),
            want);
}

// Rows replicated over tp are summed over it after the sums over dp; nothing waits for them earlier. Final norm, then
// two norms per layer.
TEST(Overlap, SumsOverTpComeAfterTheBackward) {
  Config config = small_config();
  config.train.seq_length = 8;
  const Lines want = {"work",   "sum 1",  "sum 2",  "sum 3",  "sum 4", "sum 5",
                      "wait 1", "wait 2", "wait 3", "wait 4", "wait 5"};
  EXPECT_EQ(
      journal_of(config, 2, 1,
                 [](Mesh& mesh, Journal& journal) { mesh.tp = std::make_shared<JournalAllReduce>(mesh.tp, journal); }),
      want);
}

// Updated parts are gathered while the next step begins; a layer waits only for its own, just before it needs them. The
// first part is the embedding's, which here is the head too; a layer has dense weights and experts.
TEST(Overlap, ALayerWaitsForItsOwnParameters) {
  Config config = small_moe_config();
  config.model.tie_word_embeddings = true;
  config.train.global_batch_size = 8;
  config.train.recompute = "full";
  const Lines want = {"work",   "gather 1", "gather 2", "gather 3", "gather 4", "gather 5", "gather 6", "wait 1",
                      "wait 2", "wait 3",   "work",     "wait 4",   "wait 5",   "work",     "wait 6",   "work"};
  EXPECT_EQ(journal_of(
                config, 1, 1,
                [](Mesh& mesh, Journal& journal) {
                  for (auto* group : {&mesh.dp, &mesh.edp})
                    *group = std::make_shared<JournalAllGather>(*group, journal);
                },
                [](Trainer& t, const SequenceSource& source) {
                  (void)train_step(t, source);
                  (void)compute_gradients(t, source);
                }),
            want);
}

// All readers of the weights between two steps see them complete.
TEST(Overlap, AComparisonOfReplicasWaitsForAllParameters) {
  const Lines want = {"work", "gather 1", "gather 2", "gather 3", "gather 4", "wait 1", "wait 2", "wait 3", "wait 4"};
  EXPECT_EQ(journal_of(
                small_config(), 1, 1,
                [](Mesh& mesh, Journal& journal) { mesh.dp = std::make_shared<JournalAllGather>(mesh.dp, journal); },
                [](Trainer& t, const SequenceSource& source) {
                  (void)train_step(t, source);
                  check_replicas(t.optimizer, t.memory);
                }),
            want);
}

}  // namespace
}  // namespace upcycle::test
