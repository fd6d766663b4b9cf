#include "data/safetensors_writer.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/data/expect_input_error.h"
#include "tests/data/stored_values.h"

namespace upcycle {
namespace {

std::vector<float> counted(std::size_t n, float begin) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = begin + static_cast<float>(i);
  return values;
}

TEST(SafetensorsWriter, KeepsFp32BitForBit) {
  const TemporaryFolder folder;
  const float values[] = {0.1f,
                          -0.0f,
                          std::numeric_limits<float>::denorm_min(),
                          INFINITY,
                          std::bit_cast<float>(0x7fc12345u),
                          std::bit_cast<float>(0xff812345u)};  // NaNs, the last a signalling one
  {
    SafetensorsWriter writer(folder.path.string());
    writer.declare("w", StoredType::F32, {2, 3});
    writer.write("w", values, 2);  // in pieces
    writer.write("w", values + 2, 4);
    writer.finish();
  }
  const auto set = SafetensorsSet::open(folder.path.string());
  EXPECT_EQ(set.info("w").shape, (std::vector<std::int64_t>{2, 3}));
  float out[6];
  set.read_rows("w", 0, 2, out);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(values[i]));
}

TEST(SafetensorsWriter, KeepsBf16BitForBitThroughFloats) {
  const TemporaryFolder folder;
  std::vector<bf16> stored(65536);
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i].bits = static_cast<std::uint16_t>(i);
  SafetensorsWriter writer(folder.path.string());
  writer.declare("raw", StoredType::BF16, {256, 256});
  writer.declare("floats", StoredType::BF16, {256, 256});
  writer.write_raw("raw", stored.data(), stored.size() * sizeof(bf16));
  {
    std::vector<float> floats(stored.size());
    for (std::size_t i = 0; i < stored.size(); ++i) floats[i] = to_float(stored[i]);
    writer.write("floats", floats.data(), floats.size());
  }
  writer.finish();
  const auto set = SafetensorsSet::open(folder.path.string());
  const auto raw = stored_values<bf16>(set.path_of("raw"), set.info("raw")),
             floats = stored_values<bf16>(set.path_of("floats"), set.info("floats"));
  for (std::size_t i = 0; i < stored.size(); ++i) {
    ASSERT_EQ(raw[i].bits, stored[i].bits);
    // Rounding quietens signalling NaNs; every other pattern survives.
    const bool nan = std::isnan(to_float(stored[i]));
    ASSERT_EQ(floats[i].bits, nan ? stored[i].bits | 0x40 : stored[i].bits);
  }
}

TEST(SafetensorsWriter, KeepsFp16BitForBitThroughFloats) {
  const TemporaryFolder folder;
  constexpr std::uint16_t infinity = 0x7c00;
  std::vector<std::uint16_t> stored;
  for (std::uint16_t h = 0; h <= infinity; ++h)
    for (const std::uint16_t sign : {std::uint16_t{0}, std::uint16_t{0x8000}})
      stored.push_back(static_cast<std::uint16_t>(h | sign));
  const auto n = static_cast<std::int64_t>(stored.size());
  {
    SafetensorsWriter writer(folder.path.string());
    writer.declare("raw", StoredType::F16, {n});
    writer.write_raw("raw", stored.data(), stored.size() * sizeof stored[0]);
    writer.finish();
  }
  const auto set = SafetensorsSet::open(folder.path.string());
  std::vector<float> floats(stored.size());
  set.read_rows("raw", 0, 1, floats.data());
  const TemporaryFolder again;
  SafetensorsWriter writer(again.path.string());
  writer.declare("floats", StoredType::F16, {n});
  writer.write("floats", floats.data(), floats.size());
  writer.finish();
  const auto second = SafetensorsSet::open(again.path.string());
  EXPECT_EQ(stored_values<std::uint16_t>(second.path_of("floats"), second.info("floats")), stored);
}

TEST(SafetensorsWriter, OneFileHasNoIndexAndIsAligned) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder.path.string());
  writer.declare("odd", StoredType::BF16, {3});
  writer.declare("wide", StoredType::F32, {2});
  const auto values = counted(3, 1);
  writer.write("odd", values.data(), 3);
  writer.write("wide", values.data(), 2);
  EXPECT_FALSE(std::filesystem::exists(folder.file("model.safetensors"))) << "published before finish";
  writer.finish();
  EXPECT_EQ(folder.names().size(), 1u);
  const auto file = SafetensorsFile::open(folder.file("model.safetensors"));
  EXPECT_NE(folder.read("model.safetensors").find(R"("__metadata__":{"format":"pt"})"), std::string::npos);
  EXPECT_EQ(file.info("wide").begin % 8, 0u);
  EXPECT_EQ(file.info("odd").begin, file.info("wide").end);
}

TEST(SafetensorsWriter, SplitsIntoShardsWithAnIndex) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder.path.string(), 40);
  writer.declare("a", StoredType::F32, {2, 3});  // 24
  writer.declare("b", StoredType::F32, {4});     // + 16: exactly the limit
  writer.declare("c", StoredType::F32, {5, 4});  // 80: past it by itself
  writer.declare("d", StoredType::F32, {1});
  writer.declare("e", StoredType::F32, {0});
  int i = 0;
  for (const auto& [name, n] : {std::pair{"a", 6}, {"b", 4}, {"c", 20}, {"d", 1}})
    writer.write(name, counted(static_cast<std::size_t>(n), 100.0f * static_cast<float>(i++)).data(),
                 static_cast<std::size_t>(n));
  writer.finish();
  EXPECT_EQ(folder.names().size(), 4u);
  const auto index = nlohmann::json::parse(folder.read("model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 4 * 31);
  EXPECT_EQ(index["weight_map"]["a"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["b"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["c"], "model-00002-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["e"], "model-00003-of-00003.safetensors");
  const auto set = SafetensorsSet::open(folder.path.string());
  EXPECT_EQ(set.names(), (std::vector<std::string>{"a", "b", "c", "d", "e"}));
  float out[2];
  set.read_rectangle("c", 3, 1, 2, 2, out);
  EXPECT_EQ(out[0], 214.0f);
  EXPECT_EQ(out[1], 215.0f);
  set.read_rows("d", 0, 1, out);
  EXPECT_EQ(out[0], 300.0f);
}

TEST(SafetensorsWriter, UnfinishedLeavesNothing) {
  const TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder.path.string(), 8);
    writer.declare("a", StoredType::F32, {2});
    writer.declare("b", StoredType::F32, {2});
    writer.write("a", counted(2, 0).data(), 2);
    EXPECT_THROW(writer.finish(), Error);  // b is missing
  }
  EXPECT_EQ(folder.names().size(), 0u);
}

TEST(SafetensorsWriter, HoldsToWhatWasDeclared) {
  const TemporaryFolder folder;
  const auto values = counted(3, 0);
  SafetensorsWriter writer(folder.path.string());
  writer.declare("a", StoredType::F32, {2});
  writer.declare("i", StoredType::I64, {1});
  EXPECT_THROW(writer.declare("a", StoredType::F32, {2}), Error);
  EXPECT_THROW(writer.declare("__metadata__", StoredType::F32, {2}), Error);
  EXPECT_THROW(writer.declare("n", StoredType::F32, {-1}), Error);
  EXPECT_THROW(writer.write("b", values.data(), 1), Error);
  EXPECT_THROW(writer.write("i", values.data(), 1), Error);
  EXPECT_THROW(writer.write("a", values.data(), 3), Error);
  writer.write("a", values.data(), 2);
  EXPECT_THROW(writer.declare("late", StoredType::F32, {2}), Error);
}

TEST(SafetensorsWriter, RefusesAFolderThatHoldsAModel) {
  const TemporaryFolder folder;
  folder.write("model-00001-of-00002.safetensors", "");
  expect_input_error([&] { SafetensorsWriter writer(folder.path.string()); },
                     {"model-00001-of-00002", "without a model"});
  expect_input_error([&] { SafetensorsWriter writer(folder.file("none")); }, {"none", "expected a folder"});
}

class SafetensorsIndex : public testing::Test {
 protected:
  SafetensorsIndex() {
    SafetensorsWriter writer(folder_.path.string(), 8);
    for (const char* name : {"a", "b"}) writer.declare(name, StoredType::F32, {2});
    for (const char* name : {"a", "b"}) writer.write(name, counted(2, 1).data(), 2);
    writer.finish();
  }
  void expect_refused(const std::string& index, std::initializer_list<const char*> parts) {
    folder_.write("model.safetensors.index.json", index);
    expect_input_error([&] { SafetensorsSet::open(folder_.path.string()); }, parts);
  }
  TemporaryFolder folder_;
};

TEST_F(SafetensorsIndex, WithoutMap) {
  expect_refused("{}", {"weight_map"});
  expect_refused("[1]", {"weight_map"});
  expect_refused(R"({"weight_map":[]})", {"weight_map"});
}
TEST_F(SafetensorsIndex, NotJson) { expect_refused("{", {"model.safetensors.index.json", "not JSON"}); }
TEST_F(SafetensorsIndex, TensorTwice) {
  expect_refused(R"({"weight_map":{"a":"model-00001-of-00002.safetensors","a":"model-00002-of-00002.safetensors"}})",
                 {"'a'", "twice"});
}
TEST_F(SafetensorsIndex, MissingShard) {
  expect_refused(R"({"weight_map":{"a":"model-00009-of-00002.safetensors"}})", {"model-00009-of-00002.safetensors"});
}
TEST_F(SafetensorsIndex, TensorNotInItsShard) {
  expect_refused(R"({"weight_map":{"a":"model-00002-of-00002.safetensors"}})", {"'a'", "no such tensor"});
}
TEST_F(SafetensorsIndex, OutsideTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", "", "a\\u0000b"})
    expect_refused(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name), {"'a'", "same folder"});
  expect_refused(R"({"weight_map":{"a":7}})", {"'a'", "expected a file name"});
}
TEST_F(SafetensorsIndex, TheMapDecides) {
  folder_.write("model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})");
  const auto set = SafetensorsSet::open(folder_.path.string());
  EXPECT_EQ(set.names(), std::vector<std::string>{"a"});
  expect_input_error([&] { set.info("b"); }, {folder_.path.c_str(), "'b'", "missing"});
}
TEST(SafetensorsSet, EmptyFolder) {
  const TemporaryFolder folder;
  expect_input_error([&] { SafetensorsSet::open(folder.path.string()); }, {"model.safetensors.index.json", "expected"});
}

}  // namespace
}  // namespace upcycle
