#include "parallel/train/dump_files.h"

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/progress.h"
#include "data/hash.h"
#include "data/safetensors_writer.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t max_list_bytes = std::size_t{1} << 30;
constexpr const char* list_name = "/dump.json";

std::string rank_folder(const std::string& dir, int rank) { return fmt::format("{}/rank{:05d}", dir, rank); }

// As a Rectangle sees it: (n) is one row.
Rectangle whole(const std::vector<std::int64_t>& shape) {
  return {0, 0, shape.size() > 1 ? shape.front() : 1, shape.empty() ? 1 : shape.back()};
}

Json rectangle_json(const Rectangle& r) { return {r.row, r.column, r.rows, r.columns}; }
Rectangle rectangle_of(const nlohmann::json& j) {
  return {j.at(0).get<std::int64_t>(), j.at(1).get<std::int64_t>(), j.at(2).get<std::int64_t>(),
          j.at(3).get<std::int64_t>()};
}

}  // namespace

DumpWriter::DumpWriter(const std::string& dir, int rank, int world, std::int64_t step)
    : folder_(rank_folder(dir, rank)), world_(world), step_(step) {
  make_folder(folder_);
}

void DumpWriter::add(const DumpTensor& tensor, const Rectangle& part, std::vector<char> values) {
  UPCYCLE_CHECK(values.size() == static_cast<std::size_t>(part.size()) * size_of(tensor.type), "{}: {} bytes",
                tensor.name, values.size());
  pieces_.push_back({tensor, part, "", fmt::format("{}/{}", tensor.name, pieces_of_[tensor.name]++),
                     hash_bytes(values.data(), values.size())});
  bytes_ += values.size();
  values_.push_back(std::move(values));
  if (bytes_ >= kFlushBytes) flush();
}

void DumpWriter::flush() {
  if (values_.empty()) return;
  const std::string name = fmt::format("{:05d}", files_++);
  make_folder(folder_ + "/" + name);
  SafetensorsWriter writer(folder_ + "/" + name, std::numeric_limits<std::uint64_t>::max());
  const auto waiting = std::span(pieces_).last(values_.size());
  for (Piece& p : waiting) {
    p.file = name + "/model.safetensors";
    const auto shape = p.tensor.shape.size() > 1 ? std::vector<std::int64_t>{p.part.rows, p.part.columns}
                                                 : std::vector<std::int64_t>{p.part.columns};
    writer.declare(p.stored, p.tensor.type, shape);
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    writer.write_raw(waiting[i].stored, values_[i].data(), values_[i].size());
    made_progress();  // other ranks may have less to write
  }
  writer.finish();
  values_.clear();
  bytes_ = 0;
}

void DumpWriter::finish() {
  flush();
  Json list = {{"format", "upcycle dump"}, {"step", step_}, {"world", world_}, {"pieces", Json::array()}};
  for (const Piece& p : pieces_)
    list["pieces"].push_back({{"name", p.tensor.name},
                              {"kind", p.tensor.kind},
                              {"order", {p.tensor.order.first, p.tensor.order.second}},
                              {"shape", p.tensor.shape},
                              {"part", rectangle_json(p.part)},
                              {"file", p.file},
                              {"stored", p.stored},
                              {"hash", p.hash}});
  write_text_atomic(folder_ + list_name, list.dump(1) + "\n");
}

bool DumpReader::is_dump(const std::string& dir) { return std::filesystem::is_directory(rank_folder(dir, 0)); }

DumpReader::DumpReader(const std::string& dir) : dir_(dir) {
  std::map<std::pair<std::int64_t, std::int64_t>, std::pair<DumpTensor, std::vector<Piece>>> all;
  std::map<std::string, std::size_t> opened;
  int world = 1;
  for (int rank = 0; rank < world; ++rank) {
    const std::string folder = rank_folder(dir, rank), path = folder + list_name;
    if (!std::filesystem::exists(path))
      input_error("{}: found no such file, expected one of each of the dump's {} ranks; dump the step again", path,
                  world);
    try {
      const nlohmann::json list = parse_strict_json(read_text(path, max_list_bytes), path);
      const int ranks = list.at("world");
      if (rank > 0 && ranks != world)
        input_error("{}: found a dump of {} ranks, expected {} as in {}; dump the step again", path, ranks, world,
                    rank_folder(dir, 0) + list_name);
      world = ranks;
      for (const nlohmann::json& p : list.at("pieces")) {
        const std::string name = p.at("file"), file = folder + "/" + name, stored = p.at("stored");
        if (std::filesystem::path(name).is_absolute() || name.find("..") != std::string::npos)
          input_error("{}: found the file {}, expected one in this folder; dump the step again", path, name);
        if (opened.emplace(file, files_.size()).second) files_.push_back(SafetensorsFile::open(file));
        const Piece piece{rectangle_of(p.at("part")), opened.at(file), stored, p.at("hash")};
        const StoredTensor& info = files_[piece.file].info(stored);
        const DumpTensor tensor{p.at("name"), p.at("kind"), p.at("order"), info.type, p.at("shape")};
        auto& [first, pieces] = all.try_emplace(tensor.order, tensor, std::vector<Piece>{}).first->second;
        const Rectangle all_of_it = whole(tensor.shape);
        if (first.name != tensor.name || first.type != tensor.type || first.shape != tensor.shape ||
            intersection(piece.part, all_of_it) != piece.part || info.rows * info.columns != piece.part.size())
          input_error("{}: {}: found a piece that does not fit the others; dump the step again", file, stored);
        pieces.push_back(piece);
      }
    } catch (const nlohmann::json::exception& e) {
      input_error("{}: found {}, expected a dump's list of tensors; dump the step again", path, e.what());
    }
  }
  for (auto& [order, entry] : all) {
    auto& [tensor, pieces] = entry;
    std::int64_t elements = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      elements += pieces[i].part.size();
      for (std::size_t j = 0; j < i; ++j)
        if (intersection(pieces[i].part, pieces[j].part).size() > 0)
          input_error("{}: {}: found a part of it twice; dump the step again", dir, tensor.name);
    }
    if (elements != whole(tensor.shape).size())
      input_error("{}: {}: found {} of its {} elements; dump the step again", dir, tensor.name, elements,
                  whole(tensor.shape).size());
    tensors_.push_back(std::move(tensor));
    pieces_.push_back(std::move(pieces));
  }
}

std::vector<char> DumpReader::read(std::size_t tensor) const {
  const DumpTensor& t = tensors_[tensor];
  const Rectangle all = whole(t.shape);
  const std::size_t element = size_of(t.type), pitch = static_cast<std::size_t>(all.columns) * element;
  std::vector<char> values(static_cast<std::size_t>(all.rows) * pitch);
  for (const Piece& p : pieces_[tensor]) {
    const SafetensorsFile& file = files_[p.file];
    const std::vector<char> piece = file.read_bytes(p.stored);
    if (hash_bytes(piece.data(), piece.size()) != p.hash)
      input_error("{}: {}: found other values than its hash says; dump the step again", file.path(), p.stored);
    const std::size_t run = static_cast<std::size_t>(p.part.columns) * element;
    char* to = values.data() + static_cast<std::size_t>(p.part.row) * pitch +
               static_cast<std::size_t>(p.part.column) * element;
    for (std::int64_t r = 0; r < p.part.rows; ++r, to += pitch) std::memcpy(to, piece.data() + r * run, run);
  }
  return values;
}

}  // namespace upcycle
