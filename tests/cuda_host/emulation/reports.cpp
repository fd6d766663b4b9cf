// What the emulation says of a kernel that does what it must not.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda_host/emulation/fibers.h"

namespace emul {

std::string& last_message() {
  static std::string s;
  return s;
}
std::string where_str(const loc& w) {
  std::string f = w.file_name();
  if (auto p = f.rfind('/'); p != std::string::npos) f = f.substr(p + 1);
  return f + ":" + std::to_string(w.line()) + ":" + std::to_string(w.column());
}

void fail_here(Fiber& me, std::string msg) {
  Block& b = tl_blk;
  b.failed = true;
  b.error = std::move(msg);
  switch_to(me, b.main, true);
  __builtin_unreachable();
}
std::string thread_str(const Fiber& f) {
  char s[128];
  std::snprintf(s, sizeof s, "block (%u,%u,%u) thread (%u,%u,%u)", f.bid.x, f.bid.y, f.bid.z, f.tid.x, f.tid.y,
                f.tid.z);
  return s;
}
void device_fail(const char* what, loc where) {
  auto& me = static_cast<Fiber&>(*tl_cur);
  EMUL_FAIL(me, std::string(what) + " at " + where_str(where) + ", " + thread_str(me));
  __builtin_unreachable();
}

void describe_deadlock(Block& b) {
  std::map<std::string, std::vector<unsigned>> groups;
  for (unsigned i = 0; i < b.n; ++i) {
    auto& f = b.f[i];
    std::string k = f.state == St::done    ? "exited"
                    : f.state == St::block ? "at __syncthreads " + where_str(f.where)
                                           : "at a warp intrinsic " + where_str(f.where);
    groups[k].push_back(i);
  }
  b.error = "deadlock in " + thread_str(b.f[0]).substr(0, thread_str(b.f[0]).find(" thread")) + ":";
  for (auto& [k, v] : groups)
    b.error += " " + std::to_string(v.size()) + " threads (first " + std::to_string(v[0]) + ") " + k + ";";
  b.failed = true;
}

}  // namespace emul
