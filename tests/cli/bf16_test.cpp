#include <gtest/gtest.h>

#include <cmath>

#include "tests/cli/small_run.h"

// bf16 on every processor that the program runs on: oneDNN told to be one without AVX-512.
namespace upcycle {
namespace {

using nlohmann::json;

const std::map<std::string, std::string> older_processor{{"ONEDNN_MAX_CPU_ISA", "AVX2"}};

TEST(Bf16, AProcessorWithoutAvx512TrainsAsThisOneDoes) {
  const SmallRun small;
  const json changes{{"dtype", "bf16"}, {"train", {{"steps", 4}}}};
  const std::vector<json> here = step_lines(small.train("here", changes));
  const Outcome trained = run_upcycle({"train", small.write_config("older", changes)}, older_processor);
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const std::vector<json> older = step_lines(small.file("older"));
  ASSERT_EQ(older.size(), 4u);
  for (std::size_t i = 0; i < older.size(); ++i)
    EXPECT_NEAR(older[i]["loss"].get<double>(), here[i]["loss"].get<double>(), 2e-3 * here[i]["loss"].get<double>());

  const std::string ids = small.write_ids("ids.json", {1, 2, 3, 4, 5, 6, 7});
  const Outcome scored =
      run_upcycle({"score", small.file("older"), "--ids", ids, "--dtype=bf16", "--json"}, older_processor);
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  const json nll = json::parse(scored.out)["nll"];
  EXPECT_EQ(nll.size(), 6u);
  for (const json& x : nll) EXPECT_TRUE(std::isfinite(x.get<double>()));
}

}  // namespace
}  // namespace upcycle
