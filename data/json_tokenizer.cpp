#include "data/json_tokenizer.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/suggest.h"
#include "data/line_process.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

// Says what the tokenizer is, then answers {"encode": text}, {"batch": texts}, {"decode": ids} and {"bytes": null}, one
// JSON a line; the ids of a batch follow it as bytes, of uint32. The
// package's own skipping of special tokens misses those that its normalizer changes, so they are left out here.
// The working folder may be a model's from elsewhere, and Python would look there first for what is imported.
constexpr const char* kScript = R"py(
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import array, itertools, json, os, re

def answer(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()

def special_id(path, tokenizer, key):
    config = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    if not os.path.exists(config):
        return -1
    with open(config, encoding="utf-8") as file:
        token = json.load(file).get(key)
    found = tokenizer.token_to_id(token.get("content") if isinstance(token, dict) else token or "")
    return -1 if found is None else found

# Bytes that each token adds to a text, in its middle and at its start. Byte-level tokens have a character a byte, and
# may be parts of characters, which by themselves do not decode.
def byte_counts(tokenizer, added, special, size):
    def length(ids):
        return len(tokenizer.decode(ids, skip_special_tokens=False).encode())
    byte_level = "ByteLevel" in json.dumps(json.loads(tokenizer.to_str())["decoder"])
    first = next(([i] for i in range(size) if i not in special and length([i]) > 0), [])
    middle, start = [0] * size, [0] * size
    for i in range(size):
        token = tokenizer.id_to_token(i)
        if token is None or i in special:
            continue
        if byte_level or re.fullmatch("<0x[0-9A-F]{2}>", token):
            middle[i] = start[i] = len(token.encode()) if i in added else len(token) if byte_level else 1
        else:
            middle[i], start[i] = length(first + [i]) - length(first), length([i])
    return middle, start

def main(path):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return answer(missing=True)
    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special}
        size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        answer(size=size, bos=special_id(path, tokenizer, "bos_token"), eos=special_id(path, tokenizer, "eos_token"))
    except BaseException as error:  # the package panics on some files
        return answer(error=" ".join(str(error).split())[:300])
    for line in sys.stdin:
        asked = json.loads(line)
        if "encode" in asked:
            answer(ids=tokenizer.encode(asked["encode"], add_special_tokens=False).ids)
        elif "batch" in asked:
            encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # without offsets
            ids = [encoding.ids for encoding in encode(asked["batch"], add_special_tokens=False)]
            answer(lengths=[len(i) for i in ids])
            sys.stdout.buffer.write(array.array("I", itertools.chain.from_iterable(ids)).tobytes())
            sys.stdout.flush()
        elif "decode" in asked:
            ids = [i for i in asked["decode"] if i not in special]
            answer(text=tokenizer.decode(ids, skip_special_tokens=False))
        else:
            middle, start = byte_counts(tokenizer, added, special, size)
            answer(middle=middle, start=start, special=sorted(special))

main(sys.argv[1])
)py";

constexpr const char* kAdvice =
    "for a tokenizer.json run launch/install.sh tokenizer_json, or name a Python that has the package tokenizers in "
    "UPCYCLE_PYTHON";

std::string python() {
  if (const char* given = std::getenv("UPCYCLE_PYTHON"); given != nullptr && *given != '\0') return given;
  const std::string installed = UPCYCLE_DEPS "/tokenizer_json/bin/python3";
  return std::filesystem::exists(installed) ? installed : "python3";
}

class JsonTokenizer final : public Tokenizer {
 public:
  explicit JsonTokenizer(const std::string& file) : process_({python(), "-c", kScript, file}, kAdvice) {
    name_ = file;
    read(process_.receive(), [&](const Json& j) {
      if (j.contains("missing"))
        input_error(
            "{}: is a Hugging Face tokenizer, read by the Python package tokenizers, which {} does not have; {}", file,
            python(), kAdvice);
      if (j.contains("error"))
        input_error("{}: is not a Hugging Face tokenizer ({}); give its tokenizer.json", file,
                    j["error"].get<std::string>());
      size_ = j.at("size"), bos_ = j.at("bos"), eos_ = j.at("eos");
    });
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    ask({{"encode", text}}, [&](const Json& j) { ids = j.at("ids").get<std::vector<std::int32_t>>(); });
    return ids;
  }
  // The package has threads of its own, one per core (or RAYON_NUM_THREADS).
  std::vector<std::vector<std::int32_t>> encode_all(std::span<const std::string> texts, std::size_t) const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::vector<std::int32_t>> ids;
    read(process_.ask(Json{{"batch", texts}}.dump(-1, ' ', false, Json::error_handler_t::replace)), [&](const Json& j) {
      for (const std::size_t length : j.at("lengths")) ids.emplace_back(length);
    });
    for (std::vector<std::int32_t>& of_text : ids) {
      const std::string bytes = process_.receive_bytes(4 * of_text.size());
      if (!bytes.empty()) std::memcpy(of_text.data(), bytes.data(), bytes.size());
    }
    if (ids.size() != texts.size())
      input_error("{}: found the ids of {} texts, expected of {}; {}", python(), ids.size(), texts.size(), kAdvice);
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) check(id);
    std::string text;
    ask({{"decode", std::vector<std::int32_t>(ids.begin(), ids.end())}}, [&](const Json& j) { text = j.at("text"); });
    return text;
  }
  std::int64_t vocab_size() const override { return size_; }
  std::int32_t eod_id() const override { return eos_; }
  std::int32_t bos_id() const override { return bos_; }

  std::int64_t decoded_bytes(std::span<const std::int32_t> ids, bool& at_start) const override {
    std::call_once(counted_, [&] {
      ask({{"bytes", nullptr}}, [&](const Json& j) {
        middle_ = j.at("middle").get<std::vector<std::int32_t>>(),
        start_ = j.at("start").get<std::vector<std::int32_t>>();
        special_.resize(middle_.size());
        for (const std::size_t id : j.at("special")) special_[id] = 1;
      });
    });
    std::int64_t bytes = 0;
    for (const std::int32_t id : ids) {
      check(id);
      const auto i = static_cast<std::size_t>(id);
      const std::int32_t n = at_start ? start_[i] : middle_[i];
      bytes += n;
      at_start = special_[i] != 0 || (at_start && n == 0 && middle_[i] == 0);
    }
    return bytes;
  }
  Cut last_cut(std::string_view) const override { return {}; }

 private:
  void check(std::int32_t id) const {
    if (id < 0 || id >= size_)
      input_error(
          "{}: token id {} is outside the tokenizer's vocabulary of {}: use the tokenizer that the model was made with",
          name_, id, size_);
  }
  // `take` gets what was answered; InputError where that is not what the script answers, so that another program ran.
  template <class Take>
  static void read(const std::string& line, const Take& take) {
    try {
      take(Json::parse(line));
    } catch (const Json::exception&) {
      input_error("{}: found the answer {}, expected a Python's; {}", python(), quote_text(line), kAdvice);
    }
  }
  template <class Take>
  void ask(const Json& question, const Take& take) const {
    const std::lock_guard lock(mutex_);
    read(process_.ask(question.dump(-1, ' ', false, Json::error_handler_t::replace)), take);
  }

  mutable LineProcess process_;
  mutable std::mutex mutex_;
  std::int64_t size_ = 0;
  std::int32_t bos_ = -1, eos_ = -1;
  mutable std::once_flag counted_;
  mutable std::vector<std::int32_t> middle_, start_;  // bytes by id
  mutable std::vector<char> special_;                 // by id
};

}  // namespace

std::unique_ptr<Tokenizer> open_json_tokenizer(const std::string& file) {
  if (!std::filesystem::is_regular_file(file))
    input_error("{}: found no such file, expected a tokenizer.json; give its path", file);
  if (const auto bytes = std::filesystem::file_size(file); bytes > tokenizer_bytes_max)
    input_error("{}: found {} bytes, expected a tokenizer of at most {}; is it the right file?", file, bytes,
                tokenizer_bytes_max);
  return std::make_unique<JsonTokenizer>(file);
}

}  // namespace upcycle
