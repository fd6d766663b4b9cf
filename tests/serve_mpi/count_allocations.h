#pragma once
#include <cstdint>

namespace upcycle::test {

// Calls of operator new so far that this program's own code made; oneDNN and MPI allocate as they like.
std::int64_t allocation_count();

}  // namespace upcycle::test
