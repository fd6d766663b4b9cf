#include "data/sentencepiece_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"

namespace upcycle {
namespace {

// sentencepiece_model.proto: ModelProto and NormalizerSpec.
constexpr std::uint32_t normalizer_spec = 3, denormalizer_spec = 5, precompiled_charsmap = 2;
constexpr int most_matches = 32;  // Normalizer::kMaxTrieResultsSize

struct NotProtobuf {};

// Goes over the fields of a message (protobuf.dev/programming-guides/encoding).
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}
  // The next field that holds bytes; none at the end.
  struct Bytes {
    std::uint32_t field;
    std::string_view bytes;
  };
  std::optional<Bytes> next() {
    while (!rest_.empty()) {
      const std::uint64_t tag = varint();
      if (tag > UINT32_MAX || tag >> 3 == 0) throw NotProtobuf{};
      switch (tag & 7) {
        case 0:
          varint();
          break;
        case 1:
          take(8);
          break;
        case 2:
          return Bytes{static_cast<std::uint32_t>(tag >> 3), take(varint())};
        case 5:
          take(4);
          break;
        default:  // groups, which sentencepiece never had
          throw NotProtobuf{};
      }
    }
    return {};
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw NotProtobuf{};
  }
  std::string_view take(std::uint64_t bytes) {
    if (bytes > rest_.size()) throw NotProtobuf{};
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }
  std::string_view rest_;
};

// One unit of a double array, as darts.h of darts-clone reads it.
struct Unit {
  std::uint32_t bits;
  bool has_leaf() const { return (bits >> 8 & 1) != 0; }
  std::uint32_t value() const { return bits & 0x7fffffff; }
  std::uint32_t label() const { return bits & 0x800000ff; }  // of a leaf more than any byte
  std::uint32_t offset() const { return bits >> 10 << ((bits & 0x200) >> 6); }
};

// What is wrong with a table; "": nothing.
std::string fault_of(std::string_view table) {
  std::uint32_t trie_bytes = 0;
  if (table.size() <= sizeof trie_bytes) return "is shorter than its size";
  std::memcpy(&trie_bytes, table.data(), sizeof trie_bytes);
  table.remove_prefix(sizeof trie_bytes);
  if (trie_bytes == 0 || trie_bytes % sizeof(Unit) != 0 || trie_bytes >= table.size())
    return "has another size than it says";
  const std::string_view texts = table.substr(trie_bytes);
  if (texts.back() != '\0') return "has a text without an end";
  std::vector<Unit> units(trie_bytes / sizeof(Unit));
  std::memcpy(units.data(), table.data(), trie_bytes);

  // From a unit, a search goes on to the one of the next byte of the text. They form a graph without circles in a table
  // that was made honestly; matches[i] is the most leaves on any way from unit i.
  constexpr int unseen = -1, open = -2;
  std::vector<int> matches(units.size(), unseen);
  struct Step {
    std::uint32_t unit, byte;
    int most;
  };
  std::vector<Step> way{{0, 0, 0}};
  while (!way.empty()) {
    Step& at = way.back();
    const Unit unit = units[at.unit];
    const std::uint32_t base = at.unit ^ unit.offset();
    if (at.byte == 0) {
      if ((base | 0xff) >= units.size()) return "leads outside of itself";
      if (at.unit != 0 && unit.has_leaf() && units[base].value() >= texts.size()) return "has a text outside of itself";
      matches[at.unit] = open;
    }
    bool deeper = false;
    for (; at.byte < 256 && !deeper; ++at.byte) {
      const std::uint32_t next = base ^ at.byte;
      if (units[next].label() != at.byte) continue;
      if (matches[next] == open) return "goes in a circle";
      if (matches[next] == unseen) {
        deeper = true;
        way.push_back({next, 0, 0});  // `at` is gone: comes back to the same byte, which is known then
        break;
      }
      at.most = std::max(at.most, matches[next]);
    }
    if (deeper) continue;
    const int most = at.most + (at.unit != 0 && unit.has_leaf() ? 1 : 0);
    if (most > most_matches) return "has too many matches for one text";
    matches[at.unit] = most;
    way.pop_back();
  }
  return "";
}

}  // namespace

void check_sentencepiece_model(std::string_view model, const std::string& path) {
  if (model.size() > tokenizer_bytes_max)
    input_error("{}: found {} bytes, expected a tokenizer of at most {}; is it the right file?", path, model.size(),
                tokenizer_bytes_max);
  try {
    for (Message whole(model); const auto part = whole.next();) {
      if (part->field != normalizer_spec && part->field != denormalizer_spec) continue;
      for (Message spec(part->bytes); const auto field = spec.next();) {
        if (field->field != precompiled_charsmap || field->bytes.empty()) continue;
        if (const std::string fault = fault_of(field->bytes); !fault.empty())
          input_error("{}: its normalizer's table {}; the file is damaged, or was made to harm: get another one", path,
                      fault);
      }
    }
  } catch (const NotProtobuf&) {
    input_error("{}: not a sentencepiece model (no protobuf message); give a .model file or \"bytes\"", path);
  }
}

}  // namespace upcycle
