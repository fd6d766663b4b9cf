#include "launch/event_file.h"

#include <fmt/format.h>
#include <nmmintrin.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace upcycle {
namespace {

// Protobuf's encoding: a field is a tag (its number and kind), then its value.
enum Kind : std::uint8_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

void put_varint(std::string& out, std::uint64_t v) {
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  out += static_cast<char>(v);
}
void put_tag(std::string& out, unsigned field, Kind kind) { put_varint(out, field << 3 | kind); }
template <class T>
void put_fixed(std::string& out, T value) {  // little-endian, as the processor has it
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}
void put_bytes(std::string& out, unsigned field, std::string_view bytes) {
  put_tag(out, field, Bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

// An Event begins with wall_time = 1, seconds.
std::string event_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_tag(event, 1, Fixed64);
  put_fixed(event, std::chrono::duration<double>(now).count());
  return event;
}

}  // namespace

std::uint32_t masked_crc32c(std::string_view data) {
  std::uint32_t crc = ~0U;
  for (const char c : data) crc = _mm_crc32_u8(crc, static_cast<unsigned char>(c));
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

EventFile::EventFile(const std::string& dir, const std::string& key) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (!std::filesystem::is_directory(dir))
    input_error("{}: found {}, which is no folder and can not be made ({}); expected one to write event files into",
                key, dir, error.message());
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  const std::string path =
      fmt::format("{}/events.out.tfevents.{:010d}.{}.{}", dir, seconds.count(), host.data(), getpid());
  file_.emplace(path, "events");
  if (const int code = file_->open(); code != 0 && code != ENOSPC && code != EDQUOT)
    input_error("{}: found {}, in which no file can be made ({}); expected a folder to write event files into", key,
                dir, std::strerror(code));
  std::string event = event_now();
  put_bytes(event, 3, "brain.Event:2");  // file_version = 3
  record(event);
}

void EventFile::add(std::int64_t step, const Scalars& scalars) {
  std::string summary, value;
  for (const auto& [tag, number] : scalars) {  // Summary: value = 1, each with tag = 1 and simple_value = 2
    value.clear();
    put_bytes(value, 1, tag);
    put_tag(value, 2, Fixed32);
    put_fixed(value, static_cast<float>(number));
    put_bytes(summary, 1, value);
  }
  std::string event = event_now();
  put_tag(event, 2, Varint);  // step = 2
  put_varint(event, static_cast<std::uint64_t>(step));
  put_bytes(event, 5, summary);  // summary = 5
  record(event);
}

void EventFile::record(const std::string& event) {
  std::string text;
  put_fixed(text, std::uint64_t{event.size()});
  put_fixed(text, masked_crc32c(text));
  text += event;
  put_fixed(text, masked_crc32c(event));
  file_->append(text);
}

}  // namespace upcycle
