#include "parallel/train/param_groups.h"

#include <gtest/gtest.h>

#include "parallel/train/optimizer.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

std::string refused(const Config& c) {
  return input_error_of([&] { check_param_groups(c); });
}

TEST(ParamGroups, TheFirstThatMatchesIsAParametersGroup) {
  Config c = small_moe_config();
  c.train.param_groups = {{"*layers.1.*", 2, -1}, {"*.gate.weight", 0.1, 0}};
  EXPECT_NO_THROW(check_param_groups(c));
  const ParamTable table = make_global_table(c.model);
  const auto rate = [&](int layer) { return rate_of(c.train, *table.find(ParamRole::Router, layer)); };
  EXPECT_EQ(rate(0).lr_mult, 0.1);
  EXPECT_EQ(rate(0).weight_decay, 0);
  EXPECT_EQ(rate(1).lr_mult, 2);
  EXPECT_EQ(rate(1).weight_decay, c.train.weight_decay);
  EXPECT_EQ(rate_of(c.train, *table.find(ParamRole::FinalNorm)).weight_decay, 0);
}

TEST(ParamGroups, APatternThatMatchesNothingIsRefusedWithWhatIsNear) {
  Config c = small_moe_config();
  c.train.param_groups = {{"*.experts.*", 1, -1}, {"*.mlp.gate.weight", 0.1, -1}};
  const std::string line = refused(c);
  EXPECT_TRUE(
      contains(line, "train.param_groups: found '*.mlp.gate.weight', expected a pattern that matches a parameter"))
      << line;
  EXPECT_TRUE(contains(line, "model.layers.*.block_sparse_moe.gate.weight")) << line;
  EXPECT_TRUE(contains(line, "`upcycle inspect`")) << line;
  c.train.param_groups = {{"lmhead*", 1, -1}};
  EXPECT_TRUE(contains(refused(c), "such as lm_head.weight,")) << refused(c);
  // And by the trainer.
  const Rig rig = cpu_rig();
  const Mesh mesh = single_mesh(rig);
  EXPECT_EQ(input_error_of([&] { (void)make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops); }), refused(c));
}

TEST(ParamGroups, OneWhoseParametersAllHaveAnEarlierGroupIsRefused) {
  Config c = small_moe_config();
  c.train.param_groups = {{"*.experts.*", 1, -1}, {"*.experts.1.*", 2, -1}};
  EXPECT_TRUE(contains(refused(c), "found '*.experts.1.*', expected a pattern that matches a parameter of no earlier"))
      << refused(c);
  std::swap(c.train.param_groups[0], c.train.param_groups[1]);
  EXPECT_NO_THROW(check_param_groups(c));
}

// A run with upcycle.at_step has routers later, and the dense MLP only before.
TEST(ParamGroups, OfALiveUpcyclingMayBeThoseOfEitherModel) {
  Config c = small_moe_config();
  c.upcycle.at_step = 5;
  c.train.param_groups = {{"*.gate.weight", 0.1, -1}, {"*.mlp.up_proj.weight", 0.5, -1}};
  EXPECT_NO_THROW(check_param_groups(c));
  EXPECT_EQ(describe_param_groups(c)[1], "parameters '*.mlp.up_proj.weight': none after upcycle.at_step = 5");
  c.train.param_groups.push_back({"*.router", 1, -1});
  EXPECT_TRUE(contains(refused(c), "'*.router'"));
  c.model = small_config().model;  // before: the run's start checked it for both
  EXPECT_NO_THROW(check_param_groups(c));
}

TEST(ParamGroups, AreSaidOneByOne) {
  Config c = small_moe_config();
  EXPECT_TRUE(describe_param_groups(c).empty());
  c.train.lr = 1e-3;
  c.train.min_lr = 1e-4;
  c.train.decoupled_lr = 2e-3;
  c.train.param_groups = {{"*.gate.weight", 0.5, 0}};
  const std::vector<std::string> want = {
      "parameters '*.gate.weight': 2 of 192 elements, learning rate 0.0005 to 5e-05, weight decay 0",
      "parameters others: 37 of 10488 elements, learning rate 0.001 to 0.0001, weight decay 0 and 0.1",
      "parameters others (embedding and output layer): 2 of 1776 elements, learning rate 0.002 to 0.0001, weight decay "
      "0.1"};
  EXPECT_EQ(describe_param_groups(c), want);
}

}  // namespace
}  // namespace upcycle
