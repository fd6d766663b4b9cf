#include <fmt/core.h>

#include "tests/cli/small_run.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

void flip(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  ASSERT_TRUE(file.is_open()) << path;
  file.seekg(0, std::ios::end);
  const auto middle = file.tellg() / 2;
  file.seekg(middle);
  const char c = static_cast<char>(file.get() ^ 1);
  file.seekp(middle);
  file.put(c);
}

TEST(InspectVerify, OfARunFolderNamesTheNewestIntactStep) {
  const SmallRun small;
  const std::string run =
      small.train("run", {{"train", {{"steps", 3}}}, {"checkpoint", {{"every", 1}, {"model_every", 2}}}});
  const auto expect = [&](int code, std::initializer_list<const char*> parts) {
    const Outcome o = run_upcycle({"inspect", run, "--verify"});
    EXPECT_EQ(o.exit_code, code) << o.err;
    EXPECT_EQ(o.err, "");
    for (const char* part : parts) EXPECT_NE(o.out.find(part), o.out.npos) << part << " in " << o.out;
  };
  const auto newest = [&](int code) {
    const Outcome o = run_upcycle({"inspect", run, "--verify", "--json"});
    EXPECT_EQ(o.exit_code, code) << o.err;
    const json j = json::parse(o.out, nullptr, false);
    EXPECT_EQ(j["verified"], code == 0);
    return j["newest_intact"].get<std::string>() + ", described: " + (j.contains("step") ? j["step"].dump() : "none");
  };
  expect(0, {"step_00000001: intact\nstep_00000002: intact\nstep_00000003: intact\nmodel_00000002: intact\n",
             "newest intact step: step_00000003\n", "optimizer.rank00000.h5"});
  flip(run + "/step_00000002/optimizer.rank00000.h5");
  expect(1, {"step_00000001: intact\nstep_00000002: damaged: ", "optimizer.rank00000.h5: found hash ",
             "newest intact step: step_00000003\n"});
  EXPECT_EQ(newest(1), "step_00000003, described: 3");
  fs::remove(run + "/step_00000003/manifest.json");
  expect(1, {"step_00000003: damaged: ", "newest intact step: step_00000001\n"});
  EXPECT_EQ(newest(1), "step_00000001, described: 1");
  flip(run + "/step_00000001/manifest.json");
  expect(1, {"step_00000001: damaged: ", "manifest.json: found hash ", "newest intact step: none\n"});
  EXPECT_EQ(newest(1), ", described: none");
}

TEST(InspectVerify, OfLatestAndWeightsAlone) {
  const SmallRun small;
  const std::string run =
      small.train("run", {{"train", {{"steps", 2}}}, {"checkpoint", {{"every", 1}, {"model_every", 2}}}});
  std::ofstream(run + "/latest") << "step_00000009\n";
  Outcome o = run_upcycle({"inspect", run, "--verify"});
  EXPECT_EQ(o.exit_code, 1) << o.err;
  EXPECT_NE(o.out.find("latest: damaged: " + run + "/latest: found step_00000009"), o.out.npos) << o.out;
  fs::remove(run + "/latest");
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  flip(run + "/model_00000002/model.rank00000.h5");
  o = run_upcycle({"inspect", run, "--verify"});
  EXPECT_EQ(o.exit_code, 1) << o.err;
  EXPECT_NE(o.out.find("model_00000002: damaged: "), o.out.npos) << o.out;
  EXPECT_NE(o.out.find("newest intact step: step_00000002\n"), o.out.npos) << o.out;
}

}  // namespace
}  // namespace upcycle
