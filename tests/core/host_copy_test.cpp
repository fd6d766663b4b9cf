#include "core/host_copy.h"

#include <gtest/gtest.h>

#include <vector>

namespace upcycle {
namespace {

// Every byte arrives, and none beside them is touched: small and large, on any alignment of either side.
TEST(HostCopy, IsACopy) {
  const std::size_t room = (std::size_t{3} << 20) + 333;
  std::vector<char> from(room), to;
  for (std::size_t i = 0; i < room; ++i) from[i] = static_cast<char>(i * 2654435761u >> 11);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{1000},
                                  std::size_t{1} << 20, (std::size_t{3} << 20) + 77})
    for (const std::size_t at : {0, 1, 16, 33})
      for (const std::size_t source : {0, 3}) {
        to.assign(room, 'x');
        copy_past_caches(to.data() + at, from.data() + source, bytes);
        for (std::size_t i = 0; i < room; ++i)
          ASSERT_EQ(to[i], i >= at && i < at + bytes ? from[i - at + source] : 'x') << bytes << " " << at << " " << i;
      }
}

}  // namespace
}  // namespace upcycle
