#include "launch/agree_on_start.h"

#include <fmt/core.h>

#include "core/config/fields.h"
#include "data/hash.h"
#include "launch/commands.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/check_same.h"
#include "parallel/comm/mesh.h"

namespace upcycle {
namespace {

void check_same_program(Communicator& ranks, const std::string& command) {
  agree_or_throw(ranks, [] {});
  if (ranks.size() == 1) return;
  check_same(
      ranks,
      fmt::format("command: {}\nversion: {}\nhash of the binary: {}\n", command, version, hash_file("/proc/self/exe")),
      "start all ranks with one command of one upcycle");
}

void check_same_config(Communicator& ranks, const Config& config) {
  std::string text;
  for (const Field& field : fields()) text += fmt::format("{}: {}\n", field.key, value_text(config, field));
  check_same(ranks, text, "start all ranks with one config");
}

}  // namespace

Start agree_on_start(const MpiSession& session, const std::string& command, const std::function<Config()>& read) {
  const auto stream = make_cpu_device()->make_stream();
  const auto ranks = make_start_group(session, *stream);
  check_same_program(*ranks, command);
  Start start;
  agree_or_throw(*ranks, [&] {
    start.config = read();
    const ParallelConfig& p = start.config.parallel;
    session.set_timeout(p.timeout_s);  // of waits for ranks that read theirs, too
    start.layout = make_layout(session.size(), p.tp, p.ep, p.etp);
  });
  check_same_config(*ranks, start.config);
  return start;
}

}  // namespace upcycle
