#include "parallel/serve/machine.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"
#include "tests/source_root.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

const std::string kH100 = (tests_root() / "../launch/machines/h100.json").string();

TEST(Machine, TheOneThatComesWithTheProgramIsRead) {
  const Machine m = read_machine(kH100);
  EXPECT_EQ(m.memory_bytes, 80e9);
  EXPECT_EQ(m.product_rate(DType::BF16), m.product_rate_bf16);
  EXPECT_EQ(m.product_rate(DType::F32), m.product_rate_fp32);
  EXPECT_GT(m.host_token_time, 0);
}

// The message for the file with one change, without the file's name.
std::string refused(const std::function<void(Json&)>& change) {
  const TemporaryFolder folder;
  Json machine = Json::parse(std::ifstream(kH100));
  change(machine);
  const std::string file = folder.file("machine.json");
  std::ofstream(file) << machine;
  const std::string message = input_error_of([&] { (void)read_machine(file); });
  EXPECT_TRUE(message.starts_with(file + ": ")) << message;
  return message.substr(std::min(message.size(), file.size() + 2));
}

TEST(Machine, AMissingOrImpossibleValueIsNamed) {
  EXPECT_EQ(refused([](Json& m) { m.erase("memory_rate"); }),
            "memory_rate: found nothing, expected {\"value\": a number, \"source\": where it comes from}");
  EXPECT_EQ(refused([](Json& m) { m["memory_rate"] = 3e12; }),
            "memory_rate: found 3000000000000.0, expected {\"value\": a number, \"source\": where it comes from}");
  EXPECT_EQ(refused([](Json& m) { m["memory_rate"].erase("value"); }),
            "memory_rate.value: found nothing, expected a number from 1e+06 to 1e+18");
  EXPECT_EQ(refused([](Json& m) { m["memory_rate"]["value"] = "fast"; }),
            "memory_rate.value: found 'fast', expected a number from 1e+06 to 1e+18");
  EXPECT_EQ(refused([](Json& m) { m["memory_rate"]["value"] = 0; }),
            "memory_rate.value: found 0, expected a number from 1e+06 to 1e+18");
  EXPECT_EQ(refused([](Json& m) { m["layer_time"]["value"] = -1e-6; }),
            "layer_time.value: found -1e-06, expected a number from 0 to 60");
  EXPECT_EQ(refused([](Json& m) { m["memory_utilization"]["value"] = 1.1; }),
            "memory_utilization.value: found 1.1, expected a number from 0.01 to 1");
  EXPECT_EQ(refused([](Json& m) { m["layer_time"].erase("source"); }),
            "layer_time.source: found nothing, expected text: where the value comes from");
  EXPECT_EQ(refused([](Json& m) { m["layer_time"]["unit"] = "s"; }),
            "layer_time.unit: found 's', expected value and source only");
  EXPECT_EQ(refused([](Json& m) { m["layer_tine"] = 1; }), "layer_tine: no such constant, did you mean 'layer_time'?");
  EXPECT_EQ(refused([](Json& m) { m["a\nb\x1b[2J"] = 1; }), "'a\\x0ab\\x1b[2J': no such constant");
  EXPECT_EQ(refused([](Json& m) { m["layer_time"]["a\nb"] = 1; }),
            "layer_time.'a\\x0ab': found 1, expected value and source only");
  EXPECT_EQ(refused([](Json& m) { m["name"] = "a\x1b[2J"; }),
            "name: found 'a\\x1b[2J', expected 60 printable characters at most");
  EXPECT_EQ(refused([](Json& m) { m.erase("name"); }), "name: found nothing, expected text");
  EXPECT_EQ(refused([](Json& m) { m = Json::array(); }), "found [], expected a JSON object");
}

TEST(Machine, IsReadAsItWasWritten) {
  const TemporaryFolder folder;
  Machine m = read_machine(kH100);
  m.layer_time = 1.0 / 3;
  EXPECT_TRUE(possible(m));
  write_machine(folder.file("machine.json"), m, "a test");
  EXPECT_EQ(read_machine(folder.file("machine.json")), m);
  m.memory_rate = 0;
  EXPECT_FALSE(possible(m));
}

TEST(Machine, AFileThatIsNoneIsOneLine) {
  const TemporaryFolder folder;
  const std::string file = folder.file("machine.json");
  EXPECT_EQ(input_error_of([&] { (void)read_machine(file); }),
            file + ": can not be read, expected a machine file such as launch/machines/h100.json");
  std::ofstream(file) << "{\n\"name\": ";
  EXPECT_TRUE(input_error_of([&] { (void)read_machine(file); }).starts_with(file));
  std::ofstream(file) << R"({"name": "a", "name": "b"})";
  EXPECT_NE(input_error_of([&] { (void)read_machine(file); }).find("name"), std::string::npos);
}

}  // namespace
}  // namespace upcycle
