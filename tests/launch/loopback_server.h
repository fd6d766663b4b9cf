#pragma once
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/check.h"

namespace upcycle {

// An HTTP server on a port of its own of this machine, one connection for each request. It lists one model, and answers
// the n-th completion (from 0) as `answer(n, request)` says: a whole answer, with its status line, after which it
// closes the connection; nothing, to close it at once.
class LoopbackServer {
 public:
  using Answer = std::function<std::string(int, const nlohmann::json&)>;

  explicit LoopbackServer(Answer answer) : answer_(std::move(answer)) {
    listening_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    UPCYCLE_CHECK(bind(listening_, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listening_, 64) == 0 &&
                      getsockname(listening_, reinterpret_cast<sockaddr*>(&address), &length) == 0,
                  "no port to listen on");
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      for (int connection; (connection = accept(listening_, nullptr, nullptr)) >= 0; close(connection))
        serve(connection);
    });
  }
  ~LoopbackServer() {
    shutdown(listening_, SHUT_RDWR);
    thread_.join();
    close(listening_);
  }
  LoopbackServer(const LoopbackServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/v1"; }
  const std::vector<nlohmann::json>& requests() const { return requests_; }
  const std::vector<std::string>& heads() const { return heads_; }  // of all, the list of models too

  static std::string ok(const std::string& body, const std::string& type = "text/event-stream") {
    return "HTTP/1.1 200 OK\r\nContent-Type: " + type + "\r\nConnection: close\r\n\r\n" + body;
  }
  // A stream of `tokens` tokens in the way of vLLM: usage in a message of its own.
  static std::string stream(const nlohmann::json& request, std::int64_t tokens) {
    std::string body;
    for (std::int64_t i = 0; i < tokens; ++i)
      body += "data: " + nlohmann::json{{"choices", {{{"text", "a"}, {"finish_reason", nullptr}}}}}.dump() + "\n\n";
    const std::int64_t prompt = request["prompt"].is_array() ? static_cast<std::int64_t>(request["prompt"].size()) : 7;
    return body + "data: {\"choices\": [{\"text\": \"\", \"finish_reason\": \"length\"}]}\n\n" + "data: " +
           nlohmann::json{{"choices", nlohmann::json::array()},
                          {"usage", {{"prompt_tokens", prompt}, {"completion_tokens", request["max_tokens"]}}}}
               .dump() +
           "\n\ndata: [DONE]\n\n";
  }

 private:
  void serve(int connection) {
    std::string text;
    std::vector<char> piece(1 << 16);
    std::size_t body = text.npos, length = 0;
    while (body == text.npos || text.size() < body + length) {
      const ssize_t n = recv(connection, piece.data(), piece.size(), 0);
      if (n <= 0) return;
      text.append(piece.data(), static_cast<std::size_t>(n));
      if (body == text.npos && text.find("\r\n\r\n") != text.npos) {
        body = text.find("\r\n\r\n") + 4;
        const std::size_t at = text.find("Content-Length: ");
        length = at < body ? std::stoul(text.substr(at + 16)) : 0;
      }
    }
    heads_.push_back(text.substr(0, body));
    std::string answer;
    if (text.starts_with("GET /v1/models ")) {
      answer = ok(R"({"data": [{"id": "a model", "max_model_len": 64}]})", "application/json");
    } else {
      requests_.push_back(nlohmann::json::parse(text.substr(body)));
      answer = answer_(static_cast<int>(requests_.size()) - 1, requests_.back());
    }
    for (std::size_t sent = 0; sent < answer.size();) {
      const ssize_t n = send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<std::size_t>(n);
    }
  }

  Answer answer_;
  int listening_ = -1, port_ = 0;
  std::thread thread_;
  std::vector<nlohmann::json> requests_;
  std::vector<std::string> heads_;
};

}  // namespace upcycle
