#include "launch/bench/remote_server.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "core/error.h"
#include "launch/bench/load_metrics.h"
#include "tests/launch/loopback_server.h"

namespace upcycle {
namespace {

using nlohmann::json;

LoadRun load(const LoopbackServer& loopback, std::int64_t requests, bool text = false) {
  Workload w;
  w.input_len = 6;
  w.output_len = 4;
  w.vocab_size = 50;
  w.burstiness = 1;
  RemoteModel model;
  const auto server = connect_to({loopback.url(), "", text, 20, "", ""}, model);
  EXPECT_EQ(model.name, "a model");
  EXPECT_EQ(model.max_model_len, 64);
  std::vector<double> arrivals;
  for (std::int64_t i = 0; i < requests; ++i) arrivals.push_back(0.002 * static_cast<double>(i));
  return drive(*server, draw_requests(w, arrivals, 1), std::numeric_limits<double>::infinity());
}

TEST(RemoteServer, AStreamIsMeasured) {
  const LoopbackServer loopback(
      [](int, const json& request) { return LoopbackServer::ok(LoopbackServer::stream(request, 4)); });
  const LoadRun r = load(loopback, 20);
  for (const RequestRecord& request : r.requests) {
    ASSERT_EQ(request.ending, Ending::Completed) << request.error;
    EXPECT_EQ(request.tokens.size(), 4);
    EXPECT_EQ(request.output_len, 4);
    EXPECT_EQ(request.prompt_len, 6);
    EXPECT_GT(request.ttft(), 0);
    EXPECT_NEAR(request.tpot() * 3 + request.ttft(), request.e2el(), 1e-9);
  }
  const json& sent = loopback.requests().front();
  EXPECT_EQ(sent["model"], "a model");
  EXPECT_EQ(sent["max_tokens"], 4);
  EXPECT_EQ(sent["temperature"], 0.0);
  EXPECT_EQ(sent["ignore_eos"], true);
  EXPECT_EQ(sent["stream"], true);
  EXPECT_EQ(sent["prompt"].size(), 6);
}

TEST(RemoteServer, KeyAndHeaderAreSent) {
  const LoopbackServer loopback(
      [](int, const json& request) { return LoopbackServer::ok(LoopbackServer::stream(request, 4)); });
  RemoteModel model;
  const auto server = connect_to({loopback.url(), "", false, 20, "secret", "X-Team: a"}, model);
  Request request;
  request.prompt = {1, 2};
  request.max_tokens = 4;
  server->add(request);
  while (server->busy()) server->step();
  ASSERT_EQ(loopback.heads().size(), 2);
  for (const std::string& head : loopback.heads()) {
    EXPECT_NE(head.find("Authorization: Bearer secret\r\n"), head.npos) << head;
    EXPECT_NE(head.find("X-Team: a\r\n"), head.npos) << head;
  }
  EXPECT_THROW(connect_to({loopback.url(), "", false, 20, "two\nlines", ""}, model), InputError);
  EXPECT_THROW(connect_to({loopback.url(), "", false, 20, "", "no header"}, model), InputError);
}

// Several tokens in a message: the server's own count is what counts.
TEST(RemoteServer, TheServersCountOfTokensIsTaken) {
  const LoopbackServer loopback(
      [](int, const json& request) { return LoopbackServer::ok(LoopbackServer::stream(request, 2)); });
  const LoadRun r = load(loopback, 3, true);
  EXPECT_TRUE(loopback.requests().front()["prompt"].is_string());
  const WindowedRun all{r, {0, 1000}};
  EXPECT_EQ(metrics_of(std::span(&all, 1), {}).total_output_tokens, 12);
  EXPECT_EQ(metrics_of(std::span(&all, 1), {}).total_input_tokens, 21);
}

// Each way to fail has its reason, is counted, and ends nothing else.
TEST(RemoteServer, FailuresAreCountedWithTheirReasons) {
  const std::vector<std::pair<std::string, std::string>> ways = {
      {"HTTP/1.1 503 Busy\r\nContent-Length: 6\r\n\r\nbusy\r\n", "HTTP 503: busy"},
      {"", "returned nothing"},  // curl's words
      {LoopbackServer::ok("data: {\"choices\": [{\"text\": \"a\", \"finish_reason\": null}]}\n\n"), "before its end"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\ndata: {\"choices\": [{\"text\": \"a\"}]}\n\n", "ransfer"},
      {LoopbackServer::ok("\x01\x02 garbage\nmore\n"), "no stream of events"},
      {LoopbackServer::ok("data: garbage\n\n"), "no JSON object"},
      {LoopbackServer::ok("data: {\"choices\": [{\"text\": 5}]}\n\n"), "without text"},
      {LoopbackServer::ok("data: {\"choices\": [], \"usage\": {\"prompt_tokens\": \"x\"}}\n\n"), "no completion"},
      {LoopbackServer::ok("data: {\"error\": {\"message\": \"out of memory\"}}\n\n"), "out of memory"},
      {LoopbackServer::ok("data: {\"choices\": [], \"usage\": {\"prompt_tokens\": -9}}\n\n"), "no counts of tokens"},
      {LoopbackServer::ok("data: [DONE]\n\n"), "without a token"},
      // No address that an answer names is read, no compression undone.
      {"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\n\r\n", "HTTP 302"},
      {"HTTP/1.1 307 Away\r\nLocation: /v1/models\r\nContent-Length: 0\r\n\r\n", "HTTP 307"},
      {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8b\x08", "no stream of events"},
      {LoopbackServer::ok("{\"choices\": [{\"text\": \"not streamed\"}]}\n", "application/json"),
       "no stream of events"},
  };
  const auto n = static_cast<int>(ways.size());
  const LoopbackServer loopback([&](int i, const json& request) {
    return i % 2 == 0 ? LoopbackServer::ok(LoopbackServer::stream(request, 4))
                      : ways[static_cast<std::size_t>(i / 2)].first;
  });
  const LoadRun r = load(loopback, 2 * n);
  std::multiset<std::string> errors;
  for (const RequestRecord& request : r.requests)
    if (request.ending == Ending::Failed) errors.insert(request.error);
  EXPECT_EQ(errors.size(), ways.size());  // which request gets which answer is the server's choice
  for (const auto& [answer, reason] : ways)
    EXPECT_TRUE(std::any_of(errors.begin(), errors.end(), [&](const std::string& e) {
      return e.find(reason) != e.npos;
    })) << reason;
  for (const std::string& error : errors) EXPECT_EQ(error.find('\n'), error.npos);
  const WindowedRun all{r, {0, 1000}};
  const LoadMetrics m = metrics_of(std::span(&all, 1), {});
  EXPECT_EQ(m.failed, n);
  EXPECT_EQ(m.completed, n);
}

TEST(RemoteServer, WhatCanNotBeReachedIsOneLine) {
  std::string closed;
  {
    const LoopbackServer gone([](int, const json&) { return ""; });
    closed = gone.url();
  }
  RemoteModel model;
  for (const std::string& url : {closed, std::string("ftp://x"), std::string("127.0.0.1"), std::string("")}) {
    try {
      connect_to({url, "", false, 20, "", ""}, model);
      ADD_FAILURE() << url;
    } catch (const InputError& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
      EXPECT_NE(std::string(e.what()).find("--url"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace upcycle
