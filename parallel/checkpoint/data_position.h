#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace upcycle {

// Where the data go on after a step that is published, and so is never changed, when steps after it were skipped: they
// moved the place in the data and nothing else.
struct DataPosition {
  std::int64_t consumed_samples = 0, skipped_steps = 0, skipped_in_a_row = 0;
  bool operator==(const DataPosition&) const = default;
};

// RUN/data_position, atomically: its first line names the step and the numbers, its second is a hash of the first.
void write_data_position(const std::string& run_dir, const std::string& step, const DataPosition& position);
// Nothing where there is no such file, where it is of another step, or, with a warning, where it is damaged: then the
// data that were skipped are met again.
std::optional<DataPosition> read_data_position(const std::string& run_dir, const std::string& step);

}  // namespace upcycle
