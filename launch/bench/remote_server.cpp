#include "launch/bench/remote_server.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/check.h"
#include "core/error.h"
#include "launch/bench/server_answers.h"

namespace upcycle {
namespace {

using nlohmann::json;

std::string text_of(const std::vector<std::int32_t>& ids) {
  static const char* const words[] = {"the", "of",  "and",  "to",  "in",  "is",   "was", "he",
                                      "for", "it",  "with", "as",  "his", "on",   "be",  "at",
                                      "by",  "had", "not",  "are", "but", "from", "or",  "have"};
  std::string text;
  for (const std::int32_t id : ids)
    text += std::string(text.empty() ? "" : " ") + words[static_cast<std::size_t>(id) % std::size(words)];
  return text;
}

std::string reason_of(CURLcode code) {
  const bool closed = code == CURLE_PARTIAL_FILE || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR;
  return fmt::format("{}{}", closed ? "the server closed the connection: " : "", curl_easy_strerror(code));
}

void check_header(const char* name, const std::string& text, bool good) {
  if (!good || std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' '; }))
    input_error("{}: found one that is no HTTP header, expected one line{}", name,
                name[0] == '$' ? "" : " such as 'Authorization: Bearer KEY'");
}

struct EasyDelete {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
using Easy = std::unique_ptr<CURL, EasyDelete>;

// A request under way.
struct Transfer {
  std::int64_t id = 0;
  Easy easy;
  std::string body, answer;  // answer: the beginning of one that is no stream
  CompletionStream stream;
  std::vector<EmittedToken>* emitted = nullptr;

  explicit Transfer(std::int64_t asked) : stream(asked) {}
};

std::size_t on_bytes(char* bytes, std::size_t size, std::size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const std::string_view text(bytes, size * count);
  long status = 0;
  curl_easy_getinfo(t.easy.get(), CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) {
    if (t.answer.size() < 1000) t.answer += text.substr(0, 1000);
    return text.size();
  }
  const std::int64_t before = t.stream.tokens();
  const bool good = t.stream.feed(text);
  for (std::int64_t i = before; i < t.stream.tokens(); ++i) t.emitted->push_back({t.id, 0, FinishReason::None});
  return good ? text.size() : 0;  // 0 ends the transfer
}

std::size_t on_text(char* bytes, std::size_t size, std::size_t count, void* user) {
  std::string& text = *static_cast<std::string*>(user);
  if (size * count > model_list_bytes_max - text.size()) return 0;  // 0 ends the transfer
  text.append(bytes, size * count);
  return size * count;
}

Easy make_easy(const std::string& url) {
  Easy easy(curl_easy_init());
  UPCYCLE_CHECK(easy != nullptr, "curl_easy_init failed");
  curl_easy_setopt(easy.get(), CURLOPT_URL, url.c_str());
  // What a server answers leads nowhere else: no redirects, so that the key goes to the named host alone, and no
  // compression (none is asked for), so that an answer is not larger than what came.
  curl_easy_setopt(easy.get(), CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(easy.get(), CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(easy.get(), CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  curl_easy_setopt(easy.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy.get(), CURLOPT_CONNECTTIMEOUT, 10L);
  curl_easy_setopt(easy.get(), CURLOPT_USERAGENT, "upcycle");
  return easy;
}

class CurlServer : public RemoteServer {
 public:
  CurlServer(const RemoteOptions& options, RemoteModel& model) : options_(options) {
    std::string& url = options_.url;
    if (!url.starts_with("http://") && !url.starts_with("https://"))
      input_error("command line: --url: found '{}', expected http://host:port/v1", url);
    while (url.ends_with('/')) url.pop_back();
    check_header("$OPENAI_API_KEY", options_.api_key, true);
    const std::size_t colon = options_.header.find(':');
    check_header("command line: --header", options_.header,
                 options_.header.empty() || (colon > 0 && colon != std::string::npos));
    UPCYCLE_CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK, "curl_global_init failed");
    multi_ = curl_multi_init();
    UPCYCLE_CHECK(multi_ != nullptr, "curl_multi_init failed");
    headers_ = curl_slist_append(curl_slist_append(nullptr, "Content-Type: application/json"), "Expect:");
    if (!options_.api_key.empty() && curl_strnequal(options_.header.c_str(), "authorization:", 14) == 0)
      headers_ = curl_slist_append(headers_, ("Authorization: Bearer " + options_.api_key).c_str());
    if (!options_.header.empty()) headers_ = curl_slist_append(headers_, options_.header.c_str());
    ask_for_model(model);
    options_.model = model.name;
  }
  ~CurlServer() override {
    for (auto& [id, transfer] : transfers_) curl_multi_remove_handle(multi_, transfer->easy.get());
    transfers_.clear();
    curl_multi_cleanup(multi_);
    curl_slist_free_all(headers_);
  }
  CurlServer(const CurlServer&) = delete;

  void add(Request request) override {
    auto t = std::make_unique<Transfer>(request.max_tokens);
    t->id = request.id;
    t->emitted = &report_.tokens;
    json body{{"model", options_.model},
              {"max_tokens", request.max_tokens},
              {"temperature", request.sampling.temperature},
              {"ignore_eos", true},
              {"stream", true},
              {"stream_options", {{"include_usage", true}}}};
    if (options_.text) {
      body["prompt"] = text_of(request.prompt);
    } else {
      body["prompt"] = request.prompt;
    }
    t->body = body.dump();
    t->easy = make_easy(options_.url + "/completions");
    CURL* const easy = t->easy.get();
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, t->body.c_str());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(t->body.size()));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT, static_cast<long>(options_.timeout));
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t.get());
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t.get());
    UPCYCLE_CHECK(curl_multi_add_handle(multi_, easy) == CURLM_OK, "curl_multi_add_handle failed");
    ends_.erase(request.id);
    transfers_[request.id] = std::move(t);
    perform();  // sends it: what came of others meanwhile is in the next step's report
  }

  bool cancel(std::int64_t id) override {
    const auto found = transfers_.find(id);
    if (found == transfers_.end()) return false;
    std::erase_if(report_.tokens, [&](const EmittedToken& t) { return t.id == id; });
    curl_multi_remove_handle(multi_, found->second->easy.get());
    transfers_.erase(found);
    return true;
  }

  bool busy() const override { return !transfers_.empty() || !report_.tokens.empty(); }

  const StepReport& step() override {
    shown_ = {};
    if (report_.tokens.empty()) {
      const double wait = std::clamp(std::ceil((return_by_ - now()) * 1e3), 0.0, 1e3);
      curl_multi_poll(multi_, nullptr, 0, static_cast<int>(wait), nullptr);
      perform();
    }
    std::swap(shown_.tokens, report_.tokens);
    shown_.running = shown_.sequences = static_cast<std::int64_t>(transfers_.size());
    shown_.rows = static_cast<std::int64_t>(shown_.tokens.size());
    return shown_;
  }

  double now() override {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  void wait_until(double time) override {
    std::this_thread::sleep_for(std::chrono::duration<double>(std::max(0.0, time - now())));
  }
  void return_by(double time) override { return_by_ = time; }
  RemoteEnd end_of(std::int64_t id) const override {
    const auto found = ends_.find(id);
    return found == ends_.end() ? RemoteEnd{} : found->second;
  }

 private:
  void ask_for_model(RemoteModel& model) {
    const std::string url = options_.url + "/models";
    const Easy easy = make_easy(url);
    std::string text;
    curl_easy_setopt(easy.get(), CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(easy.get(), CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(easy.get(), CURLOPT_WRITEDATA, &text);
    curl_easy_setopt(easy.get(), CURLOPT_TIMEOUT, 30L);
    const CURLcode code = curl_easy_perform(easy.get());
    if (code == CURLE_WRITE_ERROR)
      input_error("{}: found an answer of more than {} bytes, expected a list of models; correct --url", url,
                  model_list_bytes_max);
    if (code != CURLE_OK)
      input_error("{}: found no server that answers ({}), expected an OpenAI-compatible one; start it or correct --url",
                  url, curl_easy_strerror(code));
    model = model_in_list(text, options_.model);
    if (model.name.empty()) model.name = options_.model;
    if (model.name.empty())
      input_error(
          "{}: found no list of models, expected {{\"data\": [{{\"id\": ...}}]}}; name the model with --model-name",
          url);
  }

  void perform() {
    int running = 0, left = 0;
    UPCYCLE_CHECK(curl_multi_perform(multi_, &running) == CURLM_OK, "curl_multi_perform failed");
    while (CURLMsg* const message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      Transfer* t = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
      end(*t, message->data.result);
    }
  }

  void end(Transfer& t, CURLcode code) {
    long status = 0;
    curl_easy_getinfo(t.easy.get(), CURLINFO_RESPONSE_CODE, &status);
    RemoteEnd end{t.stream.error(), t.stream.prompt_tokens(), t.stream.output_tokens()};
    std::string& error = end.error;
    if (error.empty() && code != CURLE_OK) error = reason_of(code);
    if (error.empty() && status != 200) {
      error = fmt::format("HTTP {}: {}", status, excerpt(t.answer));
      if (!answered_ && !options_.text) error += " (a server that takes no token ids needs --prompt=text)";
    }
    if (error.empty() && !t.stream.finished()) error = "the server closed the stream before its end";
    if (error.empty() && t.stream.tokens() == 0) error = "the stream ended without a token";
    answered_ = answered_ || error.empty();
    report_.tokens.push_back({t.id, -1, error.empty() ? FinishReason::Ended : FinishReason::Failed});
    ends_[t.id] = end;
    curl_multi_remove_handle(multi_, t.easy.get());
    transfers_.erase(t.id);
  }

  RemoteOptions options_;
  CURLM* multi_ = nullptr;
  double return_by_ = 0;
  bool answered_ = false;  // a request has completed
  curl_slist* headers_ = nullptr;
  std::map<std::int64_t, std::unique_ptr<Transfer>> transfers_;
  std::map<std::int64_t, RemoteEnd> ends_;
  StepReport report_, shown_;  // what came since the last step; what it showed
};

}  // namespace

std::unique_ptr<RemoteServer> connect_to(const RemoteOptions& options, RemoteModel& model) {
  return std::make_unique<CurlServer>(options, model);
}

}  // namespace upcycle
