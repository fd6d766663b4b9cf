#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace upcycle {

// A bit for each logical core that a process may run on.
struct CoreMask {
  std::array<std::uint64_t, 128> bits{};
};

// The calling process's own, as its launcher bound it.
CoreMask own_cores();

// Threads for process `own` of those on one machine: a core that several of them may use counts as a fraction. So bound
// ranks take the cores they are bound to, unbound ones divide the machine (or what a job may use of it), and ranks
// bound to one socket divide that. At least 1.
int threads_of(std::span<const CoreMask> on_machine, std::size_t own);

}  // namespace upcycle
