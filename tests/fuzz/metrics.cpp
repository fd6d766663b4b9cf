#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/check.h"
#include "launch/run_curves.h"
#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// A run's folder that goes with the process.
struct Run {
  std::string folder = make();
  static std::string make() {
    std::string name = (std::filesystem::temp_directory_path() / "upcycle_fuzz.XXXXXX").string();
    UPCYCLE_CHECK(mkdtemp(name.data()) != nullptr, "no folder {}", name);
    return name;
  }
  ~Run() { std::filesystem::remove_all(folder); }
};

// The lines that a run wrote.
void one(std::string_view input) {
  static const Run run;
  std::ofstream(run.folder + "/metrics.jsonl", std::ios::binary)
      .write(input.data(), static_cast<std::streamsize>(input.size()));
  fuzz::may_refuse([&] {
    const RunCurves curves = read_run_curves(run.folder, 5);
    if (curves.training.tokens.empty() || curves.training.tokens.size() != curves.training.loss.size())
      throw std::logic_error("a curve of nothing");
    (void)read_run_end(run.folder, 3);
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(metrics, upcycle::one)
