#include "parallel/serve/scheduler.h"

#include <map>
#include <set>

#include "core/rng.h"
#include "tests/core/input_error.h"

namespace upcycle {
namespace {

constexpr std::int32_t vocab = 23;

// A model whose next token depends on all before it, through a state that lies in the cache's pages as keys and values
// do: a row that is computed twice, never, or in another sequence's page gives other tokens.
struct FakeModel {
  struct Slot {
    std::int64_t id = -1, row = -1;
    std::uint64_t state = 0;
  };
  std::int64_t page_rows;
  std::vector<Slot> cache;

  explicit FakeModel(const SchedulerOptions& o)
      : page_rows(o.page_rows), cache(static_cast<std::size_t>(o.pages * o.page_rows)) {}

  static std::uint64_t next(std::uint64_t state, std::int32_t token) {
    return (state ^ static_cast<std::uint64_t>(token + 1)) * 0x9E3779B97F4A7C15ull + (state >> 29);
  }
  static std::int32_t draw(std::uint64_t state) { return static_cast<std::int32_t>((state >> 20) % vocab); }

  Slot& slot(const Sequence& s, std::int64_t row) {
    const std::int32_t page = s.pages.at(static_cast<std::size_t>(row / page_rows));
    return cache.at(static_cast<std::size_t>(page * page_rows + row % page_rows));
  }
  // The state behind the last row.
  std::uint64_t compute(const ScheduledRows& part) {
    const Sequence& s = *part.sequence;
    std::uint64_t state = 0;
    if (part.begin > 0) {
      const Slot& before = slot(s, part.begin - 1);
      EXPECT_EQ(before.id, s.request.id);
      EXPECT_EQ(before.row, part.begin - 1);
      state = before.state;
    }
    for (std::int64_t row = part.begin; row < part.begin + part.rows; ++row) {
      state = next(state, s.tokens.at(static_cast<std::size_t>(row)));
      slot(s, row) = {s.request.id, row, state};
    }
    return state;
  }
};

// What a request gets alone.
std::vector<std::int32_t> alone(const Request& r) {
  std::uint64_t state = 0;
  for (const std::int32_t token : r.prompt) state = FakeModel::next(state, token);
  std::vector<std::int32_t> tokens;
  while (static_cast<std::int64_t>(tokens.size()) < r.max_tokens) {
    tokens.push_back(FakeModel::draw(state));
    if (std::find(r.stop.begin(), r.stop.end(), tokens.back()) != r.stop.end()) break;
    state = FakeModel::next(state, tokens.back());
  }
  return tokens;
}

// Runs a scheduler with the fake model; every step is checked against the rules.
struct CheckedRun {
  SchedulerOptions options;
  Scheduler scheduler;
  FakeModel model;
  std::map<std::int64_t, std::vector<std::int32_t>> tokens;  // by request
  std::vector<std::int64_t> first_tokens;                    // requests in the order of their first tokens
  std::vector<std::int32_t> sampled;
  std::int64_t steps = 0, rows = 0;

  explicit CheckedRun(const SchedulerOptions& o) : options(o), scheduler(o), model(o) {}

  std::vector<std::int64_t> step() {  // requests that ended
    const std::span<const ScheduledRows> parts = scheduler.schedule();
    EXPECT_FALSE(parts.empty()) << "nothing to compute though something waits or runs";
    EXPECT_LE(scheduler.running(), options.max_num_seqs);
    std::int64_t total = 0, decoding = 0;
    std::set<std::int32_t> pages;
    std::size_t held = 0;
    sampled.clear();
    for (const ScheduledRows& part : parts) {
      EXPECT_GE(part.rows, 1);
      EXPECT_EQ(part.begin, part.sequence->computed);
      EXPECT_EQ(part.samples, part.begin + part.rows == static_cast<std::int64_t>(part.sequence->tokens.size()));
      total += part.rows;
      decoding += part.begin > 0 && part.rows == 1 && part.samples;
      held += part.sequence->pages.size();
      pages.insert(part.sequence->pages.begin(), part.sequence->pages.end());
      const std::uint64_t state = model.compute(part);
      if (part.samples) sampled.push_back(FakeModel::draw(state));
      EXPECT_TRUE(part.samples || options.policy == SchedulingPolicy::Mixed);
    }
    EXPECT_LE(total, options.max_num_batched_tokens);
    EXPECT_EQ(pages.size(), held) << "two sequences share a page";
    EXPECT_TRUE(decoding == 0 || decoding == static_cast<std::int64_t>(parts.size()) ||
                options.policy == SchedulingPolicy::Mixed);
    ++steps;
    rows += total;
    std::vector<std::int64_t> ended;
    for (const EmittedToken& e : scheduler.complete(sampled)) {
      if (tokens[e.id].empty()) first_tokens.push_back(e.id);
      tokens[e.id].push_back(e.token);
      if (e.finished != FinishReason::None) ended.push_back(e.id);
    }
    return ended;
  }
};

Request request_of(std::int64_t id, std::int64_t prompt, std::int64_t max_tokens) {
  Request r;
  r.id = id;
  r.max_tokens = max_tokens;
  for (std::int64_t i = 0; i < prompt; ++i)
    r.prompt.push_back(
        static_cast<std::int32_t>(rng::below(vocab, 3, static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(i))));
  return r;
}

SchedulerOptions small_options(SchedulingPolicy policy, std::int64_t seqs, std::int64_t budget, std::int64_t pages) {
  SchedulerOptions o;
  o.policy = policy;
  o.max_num_seqs = seqs;
  o.max_num_batched_tokens = budget;
  o.max_model_len = 64;
  o.pages = pages;
  o.page_rows = 4;
  return o;
}

class RandomRequests : public ::testing::TestWithParam<SchedulingPolicy> {};

// 10,000 requests for each policy, in runs that differ in sequences, budget and cache; from one that holds a single
// longest request to one that never preempts.
TEST_P(RandomRequests, GetTheTokensThatTheyGetAlone) {
  struct Case {
    std::int64_t seqs, budget, pages;
    bool preempts;
  };
  std::int64_t number = 0;
  for (const Case& c : {Case{4, 63, 16, true}, Case{16, 64, 24, true}, Case{32, 100, 60, true},
                        Case{8, 128, 200, false}, Case{1, 63, 16, false}}) {
    SCOPED_TRACE(fmt::format("{} sequences, budget {}, {} pages", c.seqs, c.budget, c.pages));
    CheckedRun run(small_options(GetParam(), c.seqs, c.budget, c.pages));
    const std::uint64_t key = rng::key_of("requests");
    std::uint64_t draws = 0;
    const auto below = [&](std::int64_t n) {
      return static_cast<std::int64_t>(rng::below(static_cast<std::uint64_t>(n), 7, key, draws++));
    };
    const std::int64_t begin = number, end = begin + 2000;
    std::map<std::int64_t, Request> requests;
    std::set<std::int64_t> open, cancelled;
    std::int64_t scheduled_alone = 0;
    while (number < end || run.scheduler.busy()) {
      // Arrivals in bursts, so that the queue is now empty and now long.
      while (number < end && (!run.scheduler.busy() || below(8) < 3)) {
        const std::int64_t prompt = 1 + below(below(3) == 0 ? 50 : 12);
        Request r = request_of(number, prompt, 1 + below(64 - prompt));
        if (below(4) == 0) r.stop = {static_cast<std::int32_t>(below(vocab))};
        requests[number] = r;
        open.insert(number++);
        run.scheduler.add(std::move(r));
      }
      if (below(6) == 0) {
        const std::int64_t id = begin + below(number - begin);
        ASSERT_EQ(run.scheduler.cancel(id), open.contains(id));
        if (open.erase(id)) cancelled.insert(id);
        ASSERT_FALSE(run.scheduler.cancel(id));
      }
      if (!run.scheduler.busy()) continue;
      for (const std::int64_t id : run.step()) ASSERT_EQ(open.erase(id), 1u);
      ASSERT_FALSE(HasFailure());
      ASSERT_LT(run.steps, 200000);
    }
    EXPECT_TRUE(open.empty());
    EXPECT_EQ(run.scheduler.free_pages(), c.pages);
    EXPECT_EQ(run.scheduler.load(), 0);
    EXPECT_EQ(run.scheduler.preemptions() > 0, c.preempts) << run.scheduler.preemptions();
    EXPECT_GT(cancelled.size(), 50u);
    for (const auto& [id, r] : requests) {
      std::vector<std::int32_t> expected = alone(r);
      const std::vector<std::int32_t>& found = run.tokens[id];
      if (cancelled.contains(id)) expected.resize(found.size());
      ASSERT_EQ(found, expected) << "request " << id;
      scheduled_alone += static_cast<std::int64_t>(r.prompt.size() + found.size()) - 1;
    }
    // First come, first served.
    EXPECT_TRUE(std::is_sorted(run.first_tokens.begin(), run.first_tokens.end()));
    // A row is computed once, and again where its sequence loses its pages.
    EXPECT_LE(run.rows, c.preempts ? 3 * scheduled_alone / 2 : scheduled_alone);
  }
}

INSTANTIATE_TEST_SUITE_P(, RandomRequests, ::testing::Values(SchedulingPolicy::Mixed, SchedulingPolicy::PrefillFirst),
                         [](const auto& info) {
                           return info.param == SchedulingPolicy::Mixed ? "mixed" : "prefill_first";
                         });

std::vector<std::pair<std::int64_t, std::int64_t>> parts_of(std::span<const ScheduledRows> step) {  // id, rows
  std::vector<std::pair<std::int64_t, std::int64_t>> parts;
  for (const ScheduledRows& part : step) parts.emplace_back(part.sequence->request.id, part.rows);
  return parts;
}
using Parts = std::vector<std::pair<std::int64_t, std::int64_t>>;

TEST(Scheduler, MixedDecodesBesideTheNextChunks) {
  Scheduler s(small_options(SchedulingPolicy::Mixed, 3, 10, 100));
  for (std::int64_t id = 0; id < 4; ++id) s.add(request_of(id, 8, 3));
  const std::vector<std::int32_t> tokens(3, 1);
  const auto complete = [&](std::size_t sampled) { (void)s.complete(std::span(tokens).first(sampled)); };
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 8}, {1, 2}}));
  complete(1);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}, {1, 6}, {2, 3}}));
  complete(2);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}, {1, 1}, {2, 5}}));  // three run: the fourth waits
  EXPECT_EQ(s.waiting(), 1);
  complete(3);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{1, 1}, {2, 1}, {3, 8}}));
}

TEST(Scheduler, PrefillFirstComputesWholePromptsBeforeDecoding) {
  Scheduler s(small_options(SchedulingPolicy::PrefillFirst, 3, 20, 100));
  for (std::int64_t id = 0; id < 4; ++id) s.add(request_of(id, 8, 3));
  const std::vector<std::int32_t> tokens(3, 1);
  const auto complete = [&](std::size_t sampled) { (void)s.complete(std::span(tokens).first(sampled)); };
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 8}, {1, 8}}));
  complete(2);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{2, 8}}));
  complete(1);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}, {1, 1}, {2, 1}}));
  complete(3);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}, {1, 1}, {2, 1}}));
  complete(3);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{3, 8}}));
}

TEST(Scheduler, TheLastToComeLosesItsPagesAndIsTheNextToComeBack) {
  Scheduler s(small_options(SchedulingPolicy::Mixed, 2, 32, 4));
  s.add(request_of(0, 8, 3));
  s.add(request_of(1, 4, 8));
  const std::vector<std::int32_t> tokens = {5, 6};
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 8}, {1, 4}}));
  (void)s.complete(tokens);
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}}));  // the last page; request 1 finds none, and is the last
  EXPECT_EQ(s.preemptions(), 1);
  EXPECT_EQ(s.free_pages(), 1);
  (void)s.complete(std::span(tokens).first(1));
  s.add(request_of(2, 4, 1));
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{0, 1}}));          // request 2 would fit, and does not overtake
  (void)s.complete(std::span(tokens).first(1));                // ends request 0
  EXPECT_EQ(parts_of(s.schedule()), (Parts{{1, 5}, {2, 4}}));  // its prompt and the token that it already had
}

TEST(Scheduler, RefusesWhatCanNeverBeServed) {
  const SchedulerOptions o = small_options(SchedulingPolicy::PrefillFirst, 2, 40, 12);
  EXPECT_EQ(Scheduler(o).refusal(60, 5),
            "a prompt of 60 tokens and max_tokens 5, expected at most 64 together (max_model_len)");
  EXPECT_EQ(Scheduler(o).refusal(45, 5),
            "a prompt of 45 tokens and max_tokens 5, expected at most 49 together: the cache has 12 pages of 4 tokens");
  EXPECT_EQ(
      Scheduler(o).refusal(37, 5),
      "a prompt of 37 tokens and max_tokens 5, expected at most 41 together: prefill_first computes whole prompts "
      "under max_num_batched_tokens 40");
  EXPECT_EQ(Scheduler(o).refusal(36, 5), "");
  EXPECT_EQ(Scheduler(o).refusal(0, 5), "a prompt of no tokens, expected at least one");
  EXPECT_EQ(Scheduler(o).refusal(1, 0), "max_tokens is 0, expected at least 1");
  SchedulerOptions mixed = o;
  mixed.policy = SchedulingPolicy::Mixed;
  EXPECT_EQ(Scheduler(mixed).refusal(44, 5), "");  // in chunks
  Scheduler s(o);
  EXPECT_EQ(input_error_of([&] { s.add(request_of(9, 60, 5)); }), "request 9: " + s.refusal(60, 5));
  EXPECT_FALSE(s.busy());
}

TEST(Scheduler, RefusesImpossibleOptions) {
  const auto error = [](auto change) {
    SchedulerOptions o = small_options(SchedulingPolicy::Mixed, 2, 40, 12);
    change(o);
    return input_error_of([&] { Scheduler s(o); });
  };
  EXPECT_EQ(error([](auto& o) { o.max_num_seqs = 0; }), "max_num_seqs is 0, expected at least 1");
  EXPECT_EQ(error([](auto& o) { o.pages = 0; }), "pages is 0, expected at least 1");
  EXPECT_EQ(error([](auto& o) { o.max_num_batched_tokens = 1; }),
            "max_num_batched_tokens is 1, expected at least max_num_seqs, 2: each sequence decodes one token per step");
}

}  // namespace
}  // namespace upcycle
