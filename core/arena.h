#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

namespace upcycle {

// A class of memory and its bytes: one line of `upcycle plan`.
struct MemoryClass {
  std::string name;
  std::size_t bytes = 0;
  bool beside_gpu = false;  // in host memory, where the run computes on a GPU
};

// One block of device memory, laid out by bumping a cursor. The same layout function runs twice: over a planning
// arena, which has no memory and only counts (its views have null data), and over the allocated one. So what
// `upcycle plan` prints and what training allocates can not differ.
//
//   Arena arena("activations");
//   layout(arena);                 // counts
//   arena.allocate(device);        // exactly high_water() bytes
//   auto views = layout(arena);    // the same takes, now with addresses
class Arena {
 public:
  // Alignment of every take, in bytes: what cuBLASLt wants of its workspaces, and more than any vector load needs.
  static constexpr std::size_t kAlignment = 256;
  static constexpr std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  explicit Arena(std::string name) : name_(std::move(name)) {}
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised after reuse (zero on first use), aligned to kAlignment. Throws Error past the allocated size.
  Tensor take(DType dtype, std::initializer_list<std::int64_t> shape);

  // `release_to` gives back everything taken after `mark`: buffers whose lifetimes do not overlap share memory.
  std::size_t mark() const { return used_; }
  void release_to(std::size_t mark);
  // Moves the cursor forward to `mark` if it is before it, so that later takes do not overlap anything before `mark`.
  void advance_to(std::size_t mark);

  // Allocates high_water() bytes of device memory, or of host memory that the device's copies reach, and resets the
  // cursor.
  enum class Memory : std::uint8_t { Device, Host };
  void allocate(Device& device, Memory where = Memory::Device);
  void free();

  // Later takes count for the class `label` (initially the arena's name); returns the previous label. Only growth of
  // the high-water mark counts, so memory that several takes share is counted once, for the first of them, and the
  // classes add up to high_water().
  std::string label(std::string label);
  const std::vector<MemoryClass>& classes() const { return classes_; }  // in order of first growth

  const std::string& name() const { return name_; }
  bool allocated() const { return device_ != nullptr; }
  void* data() const { return data_; }
  std::size_t capacity() const { return capacity_; }      // bytes, 0 while planning
  std::size_t high_water() const { return high_water_; }  // bytes, the most ever in use

 private:
  void count(std::size_t growth);

  std::string name_, label_ = name_;
  std::vector<MemoryClass> classes_;
  Device* device_ = nullptr;
  Memory where_ = Memory::Device;
  char* data_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0, high_water_ = 0;
};

// Takes in this scope count for `label`; the destructor restores the previous label.
class ArenaLabel {
 public:
  ArenaLabel(Arena& arena, std::string label) : arena_(arena), before_(arena.label(std::move(label))) {}
  ~ArenaLabel() { arena_.label(std::move(before_)); }
  ArenaLabel(const ArenaLabel&) = delete;

 private:
  Arena& arena_;
  std::string before_;
};

}  // namespace upcycle
