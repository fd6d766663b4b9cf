#include "launch/study/measures.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace upcycle {
namespace {

RunMeasures example() {
  RunMeasures m;
  m.steps = 10;
  m.tokens = 40960;
  m.parameters = 7;
  m.active_parameters = 5;
  m.flops = 1.25e12;
  m.wall_seconds = 3.5;
  m.tokens_per_s = 11702.857142857143;
  m.last_50_loss = 1.0 / 3;
  m.sets = {{"old", {{10, 4, 8}, {6, 3, 9}, {1, 1, 2}, {2, 1, 3}}, {1, 0, 0.5}, {3, 0, 3}, 4},
            {"new", {{5, 2, 4}}, {}, {}, 0}};
  m.experts = Json::array({{{"tokens_trained", 0}}});
  return m;
}

TEST(Measures, TheFirstHalfIsForChoosingAndTheSecondIsReported) {
  const SetMeasures set = example().sets[0];
  EXPECT_DOUBLE_EQ(mean_loss(set, Half::Choosing), 16.0 / 7);
  EXPECT_DOUBLE_EQ(mean_loss(set, Half::Reported), 3.0 / 2);
  EXPECT_DOUBLE_EQ(bits_per_byte(set, Half::Reported), 3 / std::log(2.0) / 5);
  EXPECT_TRUE(std::isnan(mean_loss(example().sets[1], Half::Reported)));
}

TEST(Measures, AreReadAsTheyWereWritten) {
  const Json written = to_json(example());
  const RunMeasures read = measures_from_json(Json::parse(written.dump()), "measures.json");
  EXPECT_EQ(to_json(read), written);
  EXPECT_EQ(read.last_50_loss, 1.0 / 3);
  EXPECT_EQ(read.sets[0].cloze, (std::vector<double>{1, 0, 0.5}));
  // Readers that sort keys give the same.
  EXPECT_EQ(to_json(measures_from_json(Json(nlohmann::json::parse(written.dump())), "x")), written);
}

TEST(Measures, ClozeItemsAreReportedByDocumentOfTheSecondHalf) {
  SetMeasures set = example().sets[0];
  const ClozeSums known = cloze_sums(set, Half::Reported);
  EXPECT_EQ(known.credits, (std::vector<double>{1.5}));
  EXPECT_EQ(known.items, (std::vector<double>{2}));
  EXPECT_EQ(cloze_sums(set, Half::Choosing).credits, (std::vector<double>{0}));
  set.cloze_documents.clear();
  EXPECT_EQ(cloze_sums(set, Half::Reported).credits, set.cloze);
  EXPECT_EQ(cloze_sums(set, Half::Reported).items, (std::vector<double>{1, 1, 1}));
}

TEST(Measures, ALossThatIsNoNumberStaysOne) {
  RunMeasures m = example();
  m.sets[0].documents[3].loss = std::nan("");
  const RunMeasures read = measures_from_json(Json::parse(to_json(m).dump()), "measures.json");
  EXPECT_TRUE(std::isnan(mean_loss(read.sets[0], Half::Reported)));
  EXPECT_FALSE(std::isnan(mean_loss(read.sets[0], Half::Choosing)));
}

std::string refusal(const Json& j) {
  try {
    measures_from_json(j, "runs/a/measures.json");
  } catch (const InputError& e) {
    return e.what();
  }
  return "read";
}

TEST(Measures, AnythingElseIsRefusedByFileAndField) {
  const Json right = to_json(example());
  const auto changed = [&](const char* at, const Json& value) {
    Json j = right;
    j[Json::json_pointer(at)] = value;
    return refusal(j);
  };
  EXPECT_EQ(changed("/steps", "ten"),
            "runs/a/measures.json: steps: found \"ten\", expected an integer of at least 0; remove the file and "
            "`upcycle compare` measures the run again");
  EXPECT_NE(changed("/tokens", -1).find("found -1, expected an integer"), std::string::npos);
  EXPECT_NE(changed("/flops", "x").find("flops: found \"x\", expected a number"), std::string::npos);
  EXPECT_NE(changed("/more", 1).find("more: found this key, expected no such key"), std::string::npos);
  EXPECT_NE(changed("/sets/0/documents/1", 3).find("sets[0]: documents: found 3, expected [loss"), std::string::npos);
  EXPECT_NE(changed("/sets/0/cloze/1", 2).find("sets[0]: cloze: found 2, expected numbers from 0 to 1"),
            std::string::npos);
  EXPECT_NE(changed("/sets/0/candidates", 1).find("candidates: found 1, expected at least 2"), std::string::npos);
  EXPECT_NE(changed("/sets/1", 2).find("sets[1]: the whole: found 2, expected an object"), std::string::npos);
  EXPECT_NE(refusal(Json::array()).find("the whole: found [], expected an object"), std::string::npos);
  Json less = right;
  less.erase("experts");
  EXPECT_NE(refusal(less).find("experts: found nothing"), std::string::npos);
}

}  // namespace
}  // namespace upcycle
