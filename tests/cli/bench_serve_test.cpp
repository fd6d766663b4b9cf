#include <algorithm>
#include <fstream>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"
#include "tests/launch/loopback_server.h"

namespace upcycle {
namespace {

using nlohmann::json;

const std::string kMoe = std::string(UPCYCLE_ROOT) + "/tests/golden/mixtral_k2",
                  kDense = std::string(UPCYCLE_ROOT) + "/tests/golden/llama_gqa_tied";

Words quick(const Words& more) {
  Words words{"bench",         "serve",          "--seconds=3",      "--json",        "--batches=1,2",
              "--input-len=8", "--output-len=4", "--max-num-seqs=4", "--memory=64MiB"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// Of all its runs: beside other load a single short one may complete nothing.
std::int64_t total(const json& measured, const char* key) {
  std::int64_t sum = measured["capacity"][key];
  for (const json& entry : measured["load"]) sum += entry[key].get<std::int64_t>();
  return sum;
}

TEST(BenchServe, AnMoeBesideItsBase) {
  const TemporaryFolder folder;
  const std::string svg = folder.file("curves.svg");
  const json j = json_of(quick({kMoe, "--baseline=" + kDense, "--svg=" + svg}));
  for (const char* who : {"model", "baseline"}) {
    EXPECT_EQ(j[who]["offline"].size(), 2);
    ASSERT_FALSE(j[who]["load"].empty());
    EXPECT_EQ(total(j[who], "failed"), 0);
    EXPECT_GT(total(j[who], "completed"), 0);
  }
  EXPECT_GT(j["model"]["capacity"]["experts_per_step_and_layer"], 0);
  EXPECT_GT(j["model"]["capacity"]["weight_bytes_per_token"], 0);
  EXPECT_GT(j["model"]["expert_tokens"].at(0), 0);
  EXPECT_FALSE(j["baseline"].contains("expert_tokens"));
  // How small it is depends on the machine and what else it does.
  EXPECT_GT(j["model"]["capacity"]["generator_cpu_share"], 0);
  EXPECT_LT(j["model"]["capacity"]["generator_cpu_share"], 1);
  for (const json& s : j["slowdown"]) EXPECT_TRUE(s["measured"].is_number() && s["predicted"].is_number()) << s;
  EXPECT_NE(text_of(svg).find("</svg>"), std::string::npos);
}

// The same calls in the same order on every rank: nothing hangs, and one report.
TEST(BenchServe, OverRanks) {
  const Outcome outcome = run_ranks(2, quick({kMoe, "--parallel.tp=2"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_GT(total(json::parse(outcome.out)["model"], "completed"), 0);
}

TEST(BenchServe, RequestsOfAFileThatAreTooLongAreCounted) {
  const TemporaryFolder folder;
  const std::string file = folder.file("requests.jsonl");
  std::ofstream(file) << "{\"prompt\": [1, 2, 3], \"max_tokens\": 2}\n{\"prompt_len\": 5, \"output_len\": 2}\n"
                         "{\"prompt_len\": 100000, \"output_len\": 3}\n";
  const json j = json_of({"bench", "serve", kMoe, "--seconds=3", "--json", "--batches=1", "--requests=" + file,
                          "--max-num-seqs=4", "--memory=64MiB"});
  const json& at_once = j["model"]["capacity"];  // 1, 2, 4 or more of them in turn
  EXPECT_EQ(at_once["drawn"], at_once["completed"].get<std::int64_t>() + at_once["failed"].get<std::int64_t>());
  EXPECT_GT(total(j["model"], "failed"), 0);
  EXPECT_EQ(at_once["errors"].size(), 1);
}

TEST(BenchServe, AServerElsewhere) {
  const LoopbackServer server([](int n, const json& request) {
    // Not the first: a server that answers nothing at all is refused.
    return n % 10 == 9 ? "HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\nsick"
                       : LoopbackServer::ok(LoopbackServer::stream(request, request["max_tokens"]));
  });
  const json j = json_of({"bench", "serve", "--url=" + server.url(), "--seconds=3", "--json", "--input-len=8",
                          "--output-len=4", "--rate-step=20", "--max-num-seqs=4"});
  EXPECT_EQ(j["model"]["name"], "a model");
  EXPECT_TRUE(j["model"]["offline"].empty());
  EXPECT_GT(total(j["model"], "completed"), 0);
  EXPECT_GT(total(j["model"], "failed"), 0);
  EXPECT_NE(j.dump().find("\"HTTP 500: sick\":"), std::string::npos);
}

TEST(BenchServe, AServerThatEndsEarlyIsNoted) {
  const LoopbackServer server([](int, const json& request) {
    json shorter = request;
    shorter["max_tokens"] = 2;
    return LoopbackServer::ok(LoopbackServer::stream(shorter, 2));
  });
  const json j = json_of({"bench", "serve", "--url=" + server.url(), "--seconds=1", "--json", "--input-len=8",
                          "--output-len=4", "--rate-step=20", "--max-num-seqs=2"});
  EXPECT_NE(j["model"]["notes"].dump().find("mean output 2 of 4"), std::string::npos) << j["model"]["notes"];
}

TEST(BenchServe, PredictsAConfig) {
  const std::string root = UPCYCLE_ROOT, machine = "--machine=" + root + "/launch/machines/h100.json";
  const json j =
      json_of({"bench", "serve", root + "/launch/configs/tiny_moe.json", "--predict", machine, "--json",
               "--input-len=200", "--output-len=100", "--batches=1,8", "--repetitions=1", "--max-num-seqs=4"});
  EXPECT_GT(j["model"]["max_rate"], 0);
  EXPECT_EQ(j["model"]["offline"].size(), 1);
  EXPECT_EQ(j["setup"]["predicted"], true);
  EXPECT_TRUE(j["setup"]["machine"].is_string());
}

// What the command line gives wins over the configs; the two are predicted alike or not at all.
TEST(BenchServe, PredictsTwoAlike) {
  const TemporaryFolder folder;
  const std::string root = UPCYCLE_ROOT, dense = folder.file("base.json");
  json config = json::parse(text_of(root + "/launch/configs/tiny_moe.json"));
  config["dtype"] = "bf16";
  config["parallel"]["tp"] = 2;
  std::ofstream(dense) << config;
  const auto words = [&](const Words& more) {
    Words all{"bench",
              "serve",
              root + "/launch/configs/tiny_moe.json",
              "--predict",
              "--json",
              "--machine=" + root + "/launch/machines/h100.json",
              "--input-len=200",
              "--output-len=100",
              "--batches=1",
              "--repetitions=1",
              "--max-num-seqs=4",
              "--baseline=" + dense};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT_NE(one_line_error(run_upcycle(words({}))).find("--dtype"), std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle(words({"--dtype=bf16"}))).find("--world"), std::string::npos);
  const json j = json_of(words({"--dtype=bf16", "--parallel.tp=1"}));
  EXPECT_EQ(j["baseline"]["layout"]["ranks"], 1);
  ASSERT_FALSE(j["slowdown"].empty());
  EXPECT_TRUE(j["slowdown"][0]["measured"].is_null() && j["slowdown"][0]["predicted"].is_number());
}

TEST(BenchServe, WhatIsWrongIsOneLine) {
  const LoopbackServer refuses([](int, const json&) { return "HTTP/1.1 401 Who\r\nContent-Length: 5\r\n\r\nno.\r\n"; });
  const std::string requests = TemporaryFolder().file("none");
  const auto refused = [](Words words, const Words& named) {
    words.insert(words.begin(), {"bench", "serve"});
    const std::string line = one_line_error(run_upcycle(words));
    for (const std::string& word : named) EXPECT_NE(line.find(word), line.npos) << line;
  };
  refused({}, {"--url"});
  refused({kMoe, "--input-len=100000"}, {"--input-len", "1000"});
  refused({kMoe, "--max-model-len=16", "--input-len=16"}, {"16"});
  refused({kMoe, "--policy=best"}, {"--policy", "prefill_first"});
  refused({kMoe, "--memory=8KiB"}, {"--memory"});
  refused({kMoe, "--requests=" + requests}, {requests});
  refused({kMoe, "--temperature=1"}, {"--temperature"});
  refused({kMoe, "--predict"}, {"--machine"});
  refused({kMoe, "--baseline=" + kDense, "--machine=" + requests}, {requests});
  refused({kMoe, "--machine=" + requests}, {"--machine", "--baseline"});
  refused({kMoe, "--world=2"}, {"--world", "--predict"});
  refused({kMoe, "--vocab-size=2"}, {"--vocab-size", "--url"});
  refused({kMoe, "--thorough", "--seconds=9"}, {"--seconds", "--thorough"});
  refused({kMoe, "--tokenizer=byte"}, {"--tokenizer", "--requests"});
  refused({"--url=http://127.0.0.1:1/v1", "--memory=1GiB"}, {"--memory", "--url"});
  refused({kMoe, "--goodput", "ttft:200", "tpot:50"}, {"--goodput", "tpot:50", "commas"});
  refused({"--url=http://127.0.0.1:1/v1", "--header=key"}, {"--header"});
  refused({kMoe, "--svg=/none/x.svg"}, {"--svg"});
  refused({kMoe, "--url=http://127.0.0.1:1/v1"}, {"--url"});
  refused({"--url=http://127.0.0.1:1/v1", "--prompt=text", "--requests=" + requests}, {"--prompt"});
  refused({"--url=http://127.0.0.1:1/v1"}, {"127.0.0.1:1", "--url"});
  refused({"--url=" + refuses.url()}, {"HTTP 401", "no."});
}

}  // namespace
}  // namespace upcycle
