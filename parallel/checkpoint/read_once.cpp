#include "parallel/checkpoint/read_once.h"

#include <algorithm>
#include <future>
#include <map>
#include <sstream>

#include "core/check.h"
#include "core/progress.h"
#include "parallel/checkpoint/hdf5_thread.h"
#include "parallel/model/rectangles.h"

namespace upcycle {
namespace {

constexpr std::size_t kMostBlock = std::size_t{1} << 20;  // fits a cache until all have taken it

struct Block {
  std::size_t tensor;  // index into Schedule::tensors
  Rectangle part;
};

// What is read, in which order: the same on all ranks that share.
struct Schedule {
  std::vector<std::string> tensors;
  std::vector<Block> blocks;
  std::size_t block_floats = 0;  // of the largest
};

// All rectangles that are wanted, by tensor; tensors in the order of their first one.
struct Wanted {
  std::vector<std::string> tensors;
  std::map<std::string, std::vector<Rectangle>> parts;
  void add(const std::string& tensor, const Rectangle& part) {
    std::vector<Rectangle>& all = parts[tensor];
    if (all.empty()) tensors.push_back(tensor);
    all.push_back(part);
  }
};

Wanted gather(const std::vector<Want>& wants, const HostGroup* sharing) {
  Wanted wanted;
  if (sharing == nullptr) {
    for (const Want& w : wants)
      if (w.part.size() > 0) wanted.add(w.tensor, w.part);
    return wanted;
  }
  std::string mine;
  for (const Want& w : wants)
    if (w.part.size() > 0)
      mine += fmt::format("{} {} {} {} {}\n", w.tensor, w.part.row, w.part.column, w.part.rows, w.part.columns);
  std::istringstream in(sharing->ranks().gather_text(mine));
  std::string tensor;
  Rectangle r;
  while (in >> tensor >> r.row >> r.column >> r.rows >> r.columns) wanted.add(tensor, r);
  UPCYCLE_CHECK(in.eof(), "wanted rectangles that can not be read");
  return wanted;
}

// Runs of rows that somebody wants, each in blocks as wide as all that is wanted of the run.
void add_blocks(Schedule& s, std::vector<Rectangle> parts, std::size_t block_bytes) {
  std::sort(parts.begin(), parts.end(), [](const Rectangle& a, const Rectangle& b) { return a.row < b.row; });
  for (std::size_t i = 0; i < parts.size();) {
    const std::int64_t row = parts[i].row;
    std::int64_t end = row, left = parts[i].column, right = left;
    for (; i < parts.size() && (parts[i].row < end || end == row); ++i) {
      end = std::max(end, parts[i].row + parts[i].rows);
      left = std::min(left, parts[i].column);
      right = std::max(right, parts[i].column + parts[i].columns);
    }
    const std::int64_t columns = right - left;
    UPCYCLE_CHECK(columns > 0, "wanted rectangles of no columns");
    const auto fit = static_cast<std::int64_t>(block_bytes / sizeof(float)) / columns;
    const std::int64_t step = std::clamp<std::int64_t>(fit, 1, end - row);
    s.block_floats = std::max(s.block_floats, static_cast<std::size_t>(step * columns));
    for (std::int64_t r = row; r < end; r += step)
      s.blocks.push_back({s.tensors.size() - 1, {r, left, std::min(step, end - r), columns}});
  }
}

Schedule make_schedule(const Wanted& wanted, std::size_t block_bytes) {
  Schedule s;
  for (const std::string& tensor : wanted.tensors) {
    s.tensors.push_back(tensor);
    add_blocks(s, wanted.parts.at(tensor), block_bytes);
  }
  return s;
}

// Hands a block that was read to this rank's wants.
class Taker {
 public:
  explicit Taker(const std::vector<Want>& wants) {
    for (const Want& w : wants) by_tensor_[w.tensor].push_back(&w);
  }
  void take(const std::string& tensor, const Rectangle& block, const float* values) {
    const auto found = by_tensor_.find(tensor);
    if (found == by_tensor_.end()) return;
    for (const Want* w : found->second) {
      const Rectangle common = intersection(w->part, block);
      if (common.size() == 0) continue;
      w->take(common, packed(block, common, values));
    }
  }

 private:
  const float* packed(const Rectangle& block, const Rectangle& part, const float* values) {
    const float* const from = values + (part.row - block.row) * block.columns + (part.column - block.column);
    if (part.columns == block.columns || part.rows == 1) return from;
    packed_.resize(std::max(packed_.size(), static_cast<std::size_t>(part.size())));
    for (std::int64_t r = 0; r < part.rows; ++r)
      std::copy_n(from + r * block.columns, part.columns, packed_.data() + r * part.columns);
    return packed_.data();
  }

  std::map<std::string, std::vector<const Want*>> by_tensor_;
  std::vector<float> packed_;
};

// A block that is being read into its slot. It ends before the slot does.
class Reading {
 public:
  ~Reading() {
    if (done_.valid()) done_.wait();
  }
  void start(std::function<void()> read, bool ahead) {
    if (!ahead) return read();
    done_ = hdf5_thread().submit(std::move(read));
  }
  void finish() {
    if (!done_.valid()) return;
    while (done_.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) forward_progress();
    done_.get();
  }

 private:
  std::future<void> done_;
};

}  // namespace

void read_once(TensorSource& source, const std::vector<Want>& wants, const HostGroup* host, std::size_t buffer_bytes) {
  const HostGroup* sharing = host != nullptr && host->ranks().size() > 1 ? host : nullptr;
  const auto group = sharing != nullptr ? static_cast<std::size_t>(sharing->ranks().size()) : 1;
  // Two halves: blocks of the next round arrive in one while all take from the other. In a round each rank reads as
  // many blocks as fit, because rounds end in a barrier; a single rank reads one, which is then still in its cache.
  const std::size_t block_bytes = std::min(kMostBlock, buffer_bytes / (2 * group));
  Schedule schedule = make_schedule(gather(wants, sharing), block_bytes);
  if (schedule.blocks.empty()) return;
  const std::size_t size = schedule.block_floats * sizeof(float);
  const std::size_t each = sharing != nullptr ? std::max<std::size_t>(1, buffer_bytes / (2 * group * size)) : 1;
  std::size_t slots = group * each, first = 0;  // of a half; this rank reads slots [first, first + each)
  const HostGroup::Memory memory =
      sharing != nullptr ? sharing->share(2 * slots * size) : HostGroup::Memory(-1, 2 * slots * size, true);
  if (sharing != nullptr && memory.common()) {
    first = static_cast<std::size_t>(sharing->ranks().rank()) * each;
  } else if (sharing != nullptr) {  // not shared: each reads for itself
    sharing = nullptr, slots = each;
    schedule = make_schedule(gather(wants, nullptr), block_bytes);
    UPCYCLE_CHECK(schedule.block_floats * sizeof(float) <= size, "a part of what is wanted is larger than the whole");
  }
  const auto slot = [&](std::size_t round, std::size_t i) {
    return reinterpret_cast<float*>(memory.data() + (round % 2 * slots + i) * size);
  };
  const std::size_t blocks = schedule.blocks.size(), rounds = (blocks + slots - 1) / slots;
  Taker taker(wants);
  Reading reading;
  const auto read = [&](std::size_t round) {
    reading.start(
        [&, round] {
          for (std::size_t i = first; i < first + each && round * slots + i < blocks; ++i) {
            const Block& b = schedule.blocks[round * slots + i];
            source.read(schedule.tensors[b.tensor], b.part, slot(round, i));
          }
        },
        host != nullptr);
  };
  read(0);
  for (std::size_t round = 0; round < rounds; ++round) {
    reading.finish();
    if (sharing != nullptr) sharing->ranks().barrier();  // all have read this round, and taken the one before
    if (round + 1 < rounds) read(round + 1);
    for (std::size_t i = 0; i < slots && round * slots + i < blocks; ++i) {
      const Block& b = schedule.blocks[round * slots + i];
      taker.take(schedule.tensors[b.tensor], b.part, slot(round, i));
    }
  }
  reading.finish();
  if (sharing != nullptr) sharing->ranks().barrier();  // before the memory is unmapped
}

}  // namespace upcycle
