#include "core/arena.h"

#include <cstring>

#include "core/error.h"

namespace upcycle {
namespace {

struct Views {
  Tensor weights, row, scratch, other;
};

// As a model lays out its memory: two scratch buffers share memory, later takes are placed behind them.
Views layout(Arena& arena) {
  Views v;
  v.weights = arena.take(DType::BF16, {3, 5});
  v.row = arena.take(DType::F32, {1});
  const std::size_t mark = arena.mark();
  v.scratch = arena.take(DType::F32, {100});
  arena.release_to(mark);
  v.other = arena.take(DType::F32, {10});
  return v;
}

TEST(Arena, PlansExactlyWhatItAllocates) {
  const auto device = make_cpu_device();
  Arena arena("test");
  const Views planned = layout(arena);
  EXPECT_EQ(planned.weights.data, nullptr);
  EXPECT_EQ(planned.scratch.data, nullptr);
  EXPECT_FALSE(arena.allocated());
  EXPECT_EQ(arena.capacity(), 0u);
  EXPECT_EQ(arena.high_water(), 256u + 256u + 512u);  // each rounded up to 256 bytes; the larger scratch counts

  arena.allocate(*device);
  EXPECT_EQ(arena.capacity(), 1024u);
  EXPECT_EQ(arena.high_water(), 0u);
  const Views real = layout(arena);
  EXPECT_EQ(arena.high_water(), arena.capacity());
  EXPECT_EQ(real.weights.data, arena.data());
  EXPECT_EQ(real.scratch.data, real.other.data);
  EXPECT_EQ(static_cast<char*>(real.row.data) - static_cast<char*>(real.weights.data), 256);
  for (const Tensor& t : {real.weights, real.row, real.scratch})
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.data) % 256, 0u);
}

std::vector<std::pair<std::string, std::size_t>> classes_of(const Arena& arena) {
  std::vector<std::pair<std::string, std::size_t>> all;
  for (const MemoryClass& c : arena.classes()) all.emplace_back(c.name, c.bytes);
  return all;
}

TEST(Arena, ClassesAddUpToItsSizeAndSharedMemoryCountsOnce) {
  const auto device = make_cpu_device();
  Arena arena("kept");
  const auto layout = [&arena] {
    arena.take(DType::F32, {64});  // 256 bytes, kept
    const std::size_t shared = arena.mark();
    {
      const ArenaLabel label(arena, "scratch");
      arena.take(DType::F32, {128});
      {
        const ArenaLabel inner(arena, "buffers");
        arena.take(DType::F32, {64});
      }
      arena.release_to(shared);
      arena.take(DType::F32, {320});  // 768 of its 1280 bytes are the three takes' before
    }
    arena.take(DType::F32, {64});
  };
  const std::vector<std::pair<std::string, std::size_t>> expected = {
      {"kept", 512}, {"scratch", 1024}, {"buffers", 256}};
  layout();
  EXPECT_EQ(classes_of(arena), expected);
  EXPECT_EQ(arena.high_water(), 1792u);
  arena.allocate(*device);
  EXPECT_TRUE(arena.classes().empty());  // the cursor is at the start again
  layout();
  EXPECT_EQ(classes_of(arena), expected);
  Arena moved = std::move(arena);
  EXPECT_EQ(classes_of(moved), expected);
  EXPECT_EQ(moved.label("later"), "kept");
}

TEST(Arena, IsZeroOnFirstUse) {
  const auto device = make_cpu_device();
  Arena arena("test");
  arena.take(DType::F32, {1000});
  arena.allocate(*device);
  const Tensor t = arena.take(DType::F32, {1000});
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(t.as<float>()[i], 0);
}

TEST(Arena, ReleaseGivesBackTheLatestTakesFirst) {
  Arena arena("test");
  arena.take(DType::F32, {64});
  const std::size_t outer = arena.mark();
  arena.take(DType::F32, {64});
  const std::size_t inner = arena.mark();
  arena.take(DType::F32, {64});
  arena.release_to(inner);
  EXPECT_EQ(arena.mark(), inner);
  arena.release_to(outer);
  EXPECT_EQ(arena.mark(), 256u);
  EXPECT_EQ(arena.high_water(), 768u);
  EXPECT_THROW(arena.release_to(inner), Error);  // inner no longer exists
}

TEST(Arena, AdvancePassesSharedMemory) {
  Arena arena("test");
  const std::size_t start = arena.mark();
  arena.take(DType::F32, {128});
  const std::size_t long_end = arena.mark();
  arena.release_to(start);
  arena.take(DType::F32, {64});
  arena.advance_to(long_end);
  EXPECT_EQ(arena.mark(), long_end);
  arena.advance_to(start);  // never back
  EXPECT_EQ(arena.mark(), long_end);
  EXPECT_THROW(arena.advance_to(long_end + 1), Error);
}

TEST(Arena, TakingMoreThanPlannedNamesTheArena) {
  const auto device = make_cpu_device();
  Arena arena("activations");
  arena.take(DType::F32, {64});
  arena.allocate(*device);
  arena.take(DType::F32, {64});
  try {
    arena.take(DType::F32, {1});
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("activations"), std::string::npos) << what;
    EXPECT_NE(what.find("256 bytes"), std::string::npos) << what;
    EXPECT_NE(what.find("512 needed"), std::string::npos) << what;
  }
}

TEST(Arena, AllocatesOnceAndTakesNothingMore) {
  const auto device = make_cpu_device();
  Arena arena("test");
  layout(arena);
  const std::uint64_t before = device_allocation_count();
  arena.allocate(*device);
  EXPECT_EQ(device_allocation_count(), before + 1);
  for (int step = 0; step < 3; ++step) {
    arena.release_to(0);
    layout(arena);
  }
  EXPECT_EQ(device_allocation_count(), before + 1);
  EXPECT_THROW(arena.allocate(*device), Error);
}

TEST(Arena, MovesAndFreesItsMemory) {
  const auto device = make_cpu_device();
  Arena a("one");
  a.take(DType::F32, {64});
  a.allocate(*device);
  void* const data = a.data();
  Arena b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(b.name(), "one");
  EXPECT_FALSE(a.allocated());
  b.free();
  EXPECT_FALSE(b.allocated());
  EXPECT_EQ(b.capacity(), 0u);
  b.take(DType::F32, {128});  // plans anew
  b.allocate(*device);
  EXPECT_EQ(b.capacity(), 512u);
}

TEST(Arena, NothingPlannedAllocatesNothing) {
  const auto device = make_cpu_device();
  Arena arena("empty");
  arena.take(DType::F32, {0, 7});
  arena.allocate(*device);
  EXPECT_TRUE(arena.allocated());
  EXPECT_EQ(arena.take(DType::F32, {0, 7}).size(), 0);
  EXPECT_THROW(arena.take(DType::F32, {1}), Error);
}

TEST(CpuDevice, CopiesAndSaysWhenMemoryIsOut) {
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  EXPECT_EQ(device->kind(), DeviceKind::Cpu);
  EXPECT_EQ(stream->kind(), DeviceKind::Cpu);
  void* p = device->allocate(8);
  const char text[8] = "seven..";
  char back[8] = {};
  device->copy_from_host(*stream, p, text, 8);
  device->copy_to_host(*stream, back, p, 8);
  EXPECT_EQ(std::memcmp(text, back, 8), 0);
  device->release(p, 8);
  EXPECT_THROW(device->allocate(std::size_t{1} << 60), Error);
}

}  // namespace
}  // namespace upcycle
