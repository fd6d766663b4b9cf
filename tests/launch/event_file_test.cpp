#include "launch/event_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

// CRC-32C bit by bit, after its definition.
std::uint32_t plain_crc(std::string_view data) {
  std::uint32_t crc = ~0U;
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82f63b78U : 0);
  }
  return ~crc;
}
std::uint32_t masked(std::string_view data) {
  const std::uint32_t crc = plain_crc(data);
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

template <class T>
T take(std::string_view& bytes) {
  T value{};
  EXPECT_GE(bytes.size(), sizeof(T));
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

// The data of each record, its checksums compared.
std::vector<std::string> records(const std::string& file) {
  const std::string text = text_of(file);
  std::string_view rest = text;
  std::vector<std::string> all;
  while (!rest.empty()) {
    const std::string_view length = rest.substr(0, 8);
    const auto n = static_cast<std::size_t>(take<std::uint64_t>(rest));
    EXPECT_EQ(take<std::uint32_t>(rest), masked(length));
    all.emplace_back(rest.substr(0, n));
    rest.remove_prefix(n);
    EXPECT_EQ(take<std::uint32_t>(rest), masked(all.back()));
  }
  return all;
}

TEST(EventFile, TheChecksumIsCrc32c) {
  EXPECT_EQ(plain_crc("123456789"), 0xe3069283U);  // the check value of its catalogue
  for (const char* text : {"", "a", "123456789"}) EXPECT_EQ(masked_crc32c(text), masked(text));
}

TEST(EventFile, IsRecordsOfEvents) {
  const TemporaryFolder folder;
  const std::string dir = folder.file("new/tb");
  EventFile(dir, "train.tensorboard_dir").add(300, {{"lm loss", 2.5}, {"a", -1}});
  const std::string file = std::filesystem::directory_iterator(dir)->path();
  EXPECT_NE(file.find("/events.out.tfevents."), std::string::npos);
  const std::vector<std::string> all = records(file);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].substr(9), std::string("\x1a\x0d", 2) + "brain.Event:2");
  EXPECT_EQ(all[1][0], '\x09');                                                                     // wall_time
  EXPECT_EQ(all[1].substr(9), std::string("\x10\xac\x02", 3) +                                      // step 300
                                  std::string("\x2a\x1a", 2) +                                      // summary
                                  std::string("\x0a\x0e\x0a\x07lm loss\x15\x00\x00\x20\x40", 16) +  // 2.5
                                  std::string("\x0a\x08\x0a\x01"
                                              "a\x15\x00\x00\x80\xbf",
                                              10));
}

TEST(EventFile, WhatIsNoFolderIsRefused) {
  const TemporaryFolder folder;
  const std::string file = folder.write("file", "text");
  EXPECT_NE(input_error_of([&] { EventFile(file, "train.tensorboard_dir"); }).find("train.tensorboard_dir: found "),
            std::string::npos);
}

}  // namespace
}  // namespace upcycle
