#pragma once
#include <cstddef>
#include <functional>

namespace upcycle {

// Calls f(0) to f(count - 1) on so many threads, in any order; returns when all are done. Of what they throw, one is
// thrown on.
void for_each_on_threads(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& f);

}  // namespace upcycle
