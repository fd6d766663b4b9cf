#include "parallel/checkpoint/stored_index.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/hdf5_listing.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {
namespace {

std::string shown(const Rectangle& r) {
  return fmt::format("rows {} + {}, columns {} + {}", r.row, r.rows, r.column, r.columns);
}

void require_number(const Hdf5Listing& file, const char* key, std::int64_t expected) {
  const auto& numbers = file.attributes.numbers;
  const auto found = numbers.find(key);
  if (found == numbers.end() || found->second.size() != 1)
    input_error("{}: attribute {}: found none, expected {}; it is no file of this checkpoint", file.path, key,
                expected);
  if (found->second[0] != expected)
    input_error(
        "{}: attribute {}: found {}, expected {}; it is a file of another checkpoint or rank: put the right one "
        "in its place",
        file.path, key, found->second[0], expected);
}

// "exp_avg/NAME/7" -> kind, NAME, 7
struct DatasetName {
  StateKind kind = StateKind::Master;
  std::string tensor;
  int number = -1;  // -1: not such a name
};
DatasetName parse_dataset_name(std::string_view name) {
  DatasetName result;
  for (const StateKind kind : {StateKind::Moment1, StateKind::Moment2}) {
    const std::string prefix = stored_tensor_name(kind, "");
    if (!name.starts_with(prefix)) continue;
    name.remove_prefix(prefix.size());
    result.kind = kind;
    break;
  }
  const std::size_t slash = name.rfind('/');
  if (slash == name.npos) return result;
  result.tensor = name.substr(0, slash);
  const char *begin = name.data() + slash + 1, *end = name.data() + name.size();
  int number = 0;
  const auto read = std::from_chars(begin, end, number);
  if (read.ec == std::errc{} && read.ptr == end && number >= 0) result.number = number;
  return result;
}

// Two rectangles that overlap, or nulls. Sorted by first row, only those that reach the current row are compared.
std::pair<const StoredRectangle*, const StoredRectangle*> find_overlap(std::vector<StoredRectangle> const& all) {
  std::vector<const StoredRectangle*> sorted, open;
  for (const StoredRectangle& r : all) sorted.push_back(&r);
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->part.row < b->part.row; });
  for (const StoredRectangle* r : sorted) {
    std::erase_if(open, [&](auto* o) { return o->part.row + o->part.rows <= r->part.row; });
    for (const StoredRectangle* o : open)
      if (o->part.column < r->part.column + r->part.columns && r->part.column < o->part.column + o->part.columns)
        return {o, r};
    open.push_back(r);
  }
  return {nullptr, nullptr};
}

}  // namespace

void StoredIndex::add_file(const Manifest& manifest, int file, const Hdf5Listing& open) {
  const std::string& name = manifest.files[static_cast<std::size_t>(file)].name;
  const bool optimizer = rank_of_optimizer_file(name) >= 0;
  const auto& numbers = open.attributes.numbers;
  if (const auto v = numbers.find("format_version");
      v != numbers.end() && v->second.size() == 1 && v->second[0] > rank_file_version)
    input_error("{}: format_version: found {}, expected at most {}; it was written by a newer upcycle: update this one",
                open.path, v->second[0], rank_file_version);
  require_number(open, "format_version", rank_file_version);
  require_number(open, "step", manifest.info.step);
  require_number(open, "rank", optimizer ? rank_of_optimizer_file(name) : rank_of_model_file(name));

  std::map<std::string_view, std::size_t> tensors;
  for (std::size_t i = 0; i < manifest.tensors.size(); ++i) tensors[manifest.tensors[i].name] = i;
  for (const Hdf5Listing::Dataset& d : open.datasets) {
    const DatasetName parsed = parse_dataset_name(d.name);
    const auto tensor = tensors.find(parsed.tensor);
    if (parsed.number < 0 || tensor == tensors.end() || (parsed.kind != StateKind::Master) != optimizer)
      input_error("{}: dataset {}: found it, expected rectangles of the manifest's tensors alone; the file is damaged",
                  open.path, quote_text(d.name));
    const Checkpoint::TensorShape& t = manifest.tensors[tensor->second];
    const auto offset = d.attributes.numbers.find("offset");
    if (offset == d.attributes.numbers.end() || offset->second.size() != 2)
      input_error("{}: dataset {}: offset: found none, expected two numbers; the file is damaged", open.path,
                  quote_text(d.name));
    const Rectangle part{offset->second[0], offset->second[1], d.rows, d.columns};
    const auto expected = rectangle_attributes(t.rows, t.columns, t.is_vector, part);
    const auto shape = d.attributes.numbers.find("global_shape");
    if (shape == d.attributes.numbers.end() || shape->second != expected.numbers.at("global_shape") || part.row < 0 ||
        part.column < 0 || part.rows < 1 || part.columns < 1 || part.rows > t.rows - part.row ||
        part.columns > t.columns - part.column)
      input_error("{}: dataset {}: found {} of another shape, expected a part of {} x {}; the file is damaged",
                  open.path, quote_text(d.name), shown(part), t.rows, t.columns);
    by_tensor_[static_cast<std::size_t>(parsed.kind) * manifest.tensors.size() + tensor->second].push_back(
        {file, parsed.number, part, d.offset, d.type});
  }
}

std::string StoredIndex::text() const {
  std::string text;
  for (std::size_t i = 0; i < by_tensor_.size(); ++i)
    for (const StoredRectangle& r : by_tensor_[i])
      text += fmt::format("{} {} {} {} {} {} {} {} {}\n", i, r.file, r.number, r.part.row, r.part.column, r.part.rows,
                          r.part.columns, r.offset, static_cast<int>(r.type));
  return text;
}

void StoredIndex::replace_with(const std::string& text) {
  for (auto& list : by_tensor_) list.clear();
  std::istringstream in(text);
  std::size_t i = 0;
  int type = 0;
  StoredRectangle r;
  while (in >> i >> r.file >> r.number >> r.part.row >> r.part.column >> r.part.rows >> r.part.columns >> r.offset >>
         type) {
    r.type = static_cast<DType>(type);
    UPCYCLE_CHECK(i < by_tensor_.size(), "tensor {} of {}", i, by_tensor_.size());
    by_tensor_[i].push_back(r);
  }
  UPCYCLE_CHECK(in.eof(), "a list of rectangles that can not be read");
}

int StoredIndex::moments() const {
  const auto n = static_cast<std::ptrdiff_t>(by_tensor_.size() / 3);
  const auto listed = [&](StateKind kind) {
    const auto first = by_tensor_.begin() + static_cast<std::ptrdiff_t>(kind) * n;
    return std::any_of(first, first + n, [](const auto& rectangles) { return !rectangles.empty(); });
  };
  return listed(StateKind::Moment2) ? 2 : listed(StateKind::Moment1) ? 1 : 0;
}

void StoredIndex::check_tiling(const Manifest& manifest, const std::string& folder, bool weights_only) const {
  bool optimizer = false;
  for (const Checkpoint::FileEntry& f : manifest.files)
    optimizer = optimizer || (!weights_only && rank_of_optimizer_file(f.name) >= 0);
  const std::size_t n = manifest.tensors.size(),
                    kinds = optimizer ? 1 + static_cast<std::size_t>(std::max(1, moments())) : 1;
  for (std::size_t i = 0; i < kinds * n; ++i) {
    const auto kind = static_cast<StateKind>(i / n);
    const Checkpoint::TensorShape& t = manifest.tensors[i % n];
    const std::string name = stored_tensor_name(kind, t.name);
    const auto [a, b] = find_overlap(by_tensor_[i]);
    if (a != nullptr)
      input_error(
          "{}: {}: found it twice: {} in {} and {} in {}, expected each element once; the files are not of one "
          "checkpoint",
          folder, name, shown(a->part), manifest.files[static_cast<std::size_t>(a->file)].name, shown(b->part),
          manifest.files[static_cast<std::size_t>(b->file)].name);
    std::int64_t covered = 0;
    for (const StoredRectangle& r : by_tensor_[i]) covered += r.part.size();
    if (covered != t.rows * t.columns)
      input_error(
          "{}: {}: found {} elements in the files, expected {}; files are missing from the manifest, use another "
          "step's folder",
          folder, name, covered, t.rows * t.columns);
  }
}

}  // namespace upcycle
