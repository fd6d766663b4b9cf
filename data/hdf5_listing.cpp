#include "data/hdf5_listing.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/without_rights.h"

namespace upcycle {
namespace {

constexpr std::size_t most_answer = std::size_t{256} << 20;

class Out {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_integral_v<T> && sizeof(T) == 8);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(const std::string& text) {
    number(std::uint64_t{text.size()});
    bytes_ += text;
  }
  void attributes(const Hdf5Attributes& a) {
    number(std::uint64_t{a.numbers.size()});
    for (const auto& [name, values] : a.numbers) {
      text(name);
      number(std::uint64_t{values.size()});
      for (const std::int64_t value : values) number(value);
    }
    number(std::uint64_t{a.texts.size()});
    for (const auto& [name, value] : a.texts) {
      text(name);
      text(value);
    }
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Believes no count before it has seen as many bytes.
class In {
 public:
  In(std::string bytes, const std::string& path) : bytes_(std::move(bytes)), path_(path) {}

  template <class T = std::uint64_t>
  T number() {
    T value;
    std::memcpy(&value, part(sizeof value), sizeof value);
    return value;
  }
  std::string text() {
    const auto n = number();
    const char* const begin = part(n);
    return {begin, begin + n};
  }
  Hdf5Attributes attributes() {
    Hdf5Attributes a;
    for (auto n = number(); n > 0; --n) {
      std::vector<std::int64_t>& values = a.numbers[text()];
      for (auto v = number(); v > 0; --v) values.push_back(number<std::int64_t>());
    }
    for (auto n = number(); n > 0; --n) {
      std::string name = text();
      a.texts[std::move(name)] = text();
    }
    return a;
  }
  bool ended() const { return at_ == bytes_.size(); }
  [[noreturn]] void refuse() const {
    input_error("{}: listing the datasets: found an answer that can not be; the file is made to do harm", path_);
  }

 private:
  const char* part(std::uint64_t n) {
    if (n > bytes_.size() - at_) refuse();
    const char* const begin = bytes_.data() + at_;
    at_ += n;
    return begin;
  }

  std::string bytes_;
  const std::string& path_;
  std::size_t at_ = 0;
};

std::string answer_of(const std::string& path) {
  const Hdf5File file = Hdf5File::open_read(path);
  Out out;
  out.attributes(file.attributes());
  const std::vector<Hdf5Dataset> datasets = file.list();
  out.number(std::uint64_t{datasets.size()});
  for (const Hdf5Dataset& d : datasets) {
    out.text(d.name);
    out.number(d.rows);
    out.number(d.columns);
    out.number(std::int64_t{d.type == DType::BF16});
    out.attributes(d.attributes);
    out.number(file.offset_of(d));
  }
  return out.take();
}

bool lies_inside(const Hdf5Listing::Dataset& d, std::uint64_t file_bytes) {
  std::uint64_t bytes = 0;
  return d.rows >= 0 && d.columns >= 0 &&
         !__builtin_mul_overflow(static_cast<std::uint64_t>(d.rows), static_cast<std::uint64_t>(d.columns), &bytes) &&
         !__builtin_mul_overflow(bytes, std::uint64_t{size_of(d.type)}, &bytes) && bytes <= file_bytes &&
         d.offset <= file_bytes - bytes;
}

}  // namespace

Hdf5Listing list_hdf5(const std::string& path) {
  const std::uint64_t file_bytes = open_regular_file(path).size();
  In in(without_rights(path + ": listing the datasets", most_answer, [&] { return answer_of(path); }), path);
  Hdf5Listing listing{path, in.attributes(), {}};
  for (auto n = in.number(); n > 0; --n) {
    Hdf5Listing::Dataset d;
    d.name = in.text();
    d.rows = in.number<std::int64_t>();
    d.columns = in.number<std::int64_t>();
    d.type = in.number<std::int64_t>() == 1 ? DType::BF16 : DType::F32;
    d.attributes = in.attributes();
    d.offset = in.number();
    if (!lies_inside(d, file_bytes)) in.refuse();
    listing.datasets.push_back(std::move(d));
  }
  if (!in.ended()) in.refuse();
  return listing;
}

}  // namespace upcycle
