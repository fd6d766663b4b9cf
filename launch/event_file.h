#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/appended_file.h"

namespace upcycle {

// A TensorBoard event file: TFRecords (length, its CRC, data, its CRC) of tensorflow.Event messages, of which these are
// the fields that scalars need. The two messages are flat and their format is fixed, so they are written here: no
// library in Debian writes such files, and protobuf would bring a compiler, a runtime and TensorFlow's definitions.
class EventFile {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;  // by tag

  // A new file in `dir`, which is made if it is missing; runs that go on add files beside the earlier ones. InputError
  // if that can not be done; `key` names what asked for it.
  EventFile(const std::string& dir, const std::string& key);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // Readable at once. A disk that does not take it does not end the run (appended_file.h).
  void add(std::int64_t step, const Scalars& scalars);

 private:
  void record(const std::string& event);
  std::optional<AppendedFile> file_;
};

// CRC-32C, as a TFRecord has it.
std::uint32_t masked_crc32c(std::string_view data);

}  // namespace upcycle
