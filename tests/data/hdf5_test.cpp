#include "data/hdf5.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

std::vector<float> random_bits(std::size_t n) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = std::bit_cast<float>(rng::bits(1, 2, i)[0]);  // NaNs among them
  return values;
}

bool same_bits(const float* a, const float* b, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  return true;
}

TEST(Hdf5, KeepsFp32BitForBitWithAttributes) {
  const TemporaryFolder folder;
  const auto values = random_bits(35);
  const Hdf5Attributes attributes{{{"shape", {70, 7}}, {"offset", {14, -3}}, {"none", {}}},
                                  {{"group", "tp"}, {"empty", ""}, {"unicode", "\xc3\xa9"}}};
  const std::string name = rectangle_name("model.layers.0.mlp.down_proj.weight", 1);
  EXPECT_EQ(name, "model.layers.0.mlp.down_proj.weight/1");
  {
    Hdf5File file = Hdf5File::create(folder.file("x.h5"));
    file.write(name, values.data(), 5, 7, attributes);
    file.write(rectangle_name("model.layers.0.mlp.down_proj.weight", 0), values.data(), 1, 7, {});
    file.write("empty/0", values.data(), 0, 7, {});
    file.write("thin/0", values.data(), 7, 0, {});
    file.write_attributes({{{"format", {1}}}, {{"config", std::string(100000, 'c')}}});  // past one object header
    file.close();
  }
  const Hdf5File file = Hdf5File::open_read(folder.file("x.h5"));
  EXPECT_EQ(file.attributes().numbers.at("format"), std::vector<std::int64_t>{1});
  EXPECT_EQ(file.attributes().texts.at("config"), std::string(100000, 'c'));
  const auto list = file.list();
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(list[0].name, "empty/0");
  EXPECT_EQ(list[0].rows, 0);
  EXPECT_EQ(list[1].name, "model.layers.0.mlp.down_proj.weight/0");
  EXPECT_EQ(list[2].name, name);
  EXPECT_EQ(list[2].rows, 5);
  EXPECT_EQ(list[2].columns, 7);
  EXPECT_EQ(list[2].type, DType::F32);
  EXPECT_EQ(list[2].attributes, attributes);
  std::vector<float> out(35);
  file.read(name, 0, 5, 0, 7, out.data());
  EXPECT_TRUE(same_bits(out.data(), values.data(), 35));
  file.read(name, 1, 3, 2, 4, out.data());
  for (std::size_t r = 0; r < 3; ++r) EXPECT_TRUE(same_bits(&out[4 * r], &values[7 * (r + 1) + 2], 4));
  file.read("empty/0", 0, 0, 0, 7, out.data());
}

TEST(Hdf5, KeepsEveryBf16) {
  const TemporaryFolder folder;
  std::vector<bf16> values(65536), out(65536);
  for (std::size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<std::uint16_t>(i);
  Hdf5File file = Hdf5File::create(folder.file("x.h5"));
  file.write("w", values.data(), 256, 256, {});
  file.close();
  file = Hdf5File::open_read(folder.file("x.h5"));
  EXPECT_EQ(file.list().at(0).type, DType::BF16);
  file.read("w", 0, 256, 0, 256, out.data());
  std::vector<float> floats(65536), expected(65536);
  file.read("w", 0, 256, 0, 256, floats.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(out[i].bits, values[i].bits);
    expected[i] = to_float(values[i]);
  }
  EXPECT_TRUE(same_bits(floats.data(), expected.data(), 65536));
  EXPECT_LT(std::filesystem::file_size(folder.file("x.h5")), 2 * 65536u + 4096);
}

// Larger than the conversion buffer, both by rows and within a row; written in pieces.
TEST(Hdf5, ConvertsInBoundedBlocks) {
  const TemporaryFolder folder;
  for (const auto& [rows, columns] : {std::pair{std::int64_t{700}, std::int64_t{1001}}, {3, 300001}}) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(rng::normal(3, 4, static_cast<std::uint64_t>(i) & 4095));
    {
      Hdf5File file = Hdf5File::create(folder.file("x.h5"));
      file.declare("b", DType::BF16, rows, columns, {});
      file.declare("f", DType::F32, rows, columns, {});
      for (const char* name : {"b", "f"}) {
        file.write_rows(name, rows - 1, values.data());
        file.write_rows(name, 1, values.data() + (rows - 1) * columns);
      }
      file.close();
    }
    const Hdf5File file = Hdf5File::open_read(folder.file("x.h5"));
    const std::int64_t n = columns - 5;
    std::vector<float> out(static_cast<std::size_t>((rows - 1) * n));
    std::vector<bf16> rounded(out.size());
    file.read("b", 1, rows - 1, 4, n, out.data());
    file.read("f", 1, rows - 1, 4, n, rounded.data());
    int wrong = 0;
    for (std::int64_t r = 0; r < rows - 1; ++r)
      for (std::int64_t c = 0; c < n; ++c) {
        const bf16 expected = to_bf16(values[static_cast<std::size_t>((r + 1) * columns + c + 4)]);
        const auto at = static_cast<std::size_t>(r * n + c);
        wrong += out[at] != to_float(expected) || rounded[at].bits != expected.bits;
      }
    EXPECT_EQ(wrong, 0);
  }
}

TEST(Hdf5, EqualContentsAreEqualFiles) {
  const TemporaryFolder folder;
  const auto values = random_bits(12);
  for (const char* name : {"a.h5", "b.h5"}) {
    Hdf5File file = Hdf5File::create(folder.file(name));
    file.write("g/0", values.data(), 3, 4, {{{"n", {1, 2}}}, {{"t", "x"}}});
    file.close();
  }
  EXPECT_EQ(folder.read("a.h5"), folder.read("b.h5"));
}

TEST(Hdf5, HoldsToWhatWasDeclared) {
  const TemporaryFolder folder;
  const auto values = random_bits(12);
  Hdf5File file = Hdf5File::create(folder.file("x.h5"));
  file.declare("w", DType::F32, 3, 4, {});
  EXPECT_THROW(file.declare("w", DType::F32, 3, 4, {}), Error);
  EXPECT_THROW(file.declare("i", DType::I64, 3, 4, {}), Error);
  EXPECT_THROW(file.write_rows("none", 1, values.data()), Error);
  EXPECT_THROW(file.write_rows("w", 4, values.data()), Error);
  file.write_rows("w", 2, values.data());
  EXPECT_THROW(file.close(), Error);  // a row is missing
}

TEST(Hdf5, RectanglesStayInside) {
  const TemporaryFolder folder;
  const auto values = random_bits(12);
  Hdf5File file = Hdf5File::create(folder.file("x.h5"));
  file.write("w", values.data(), 3, 4, {});
  file.close();
  file = Hdf5File::open_read(folder.file("x.h5"));
  float out[16];
  EXPECT_THROW(file.read("w", 0, 4, 0, 4, out), Error);
  EXPECT_THROW(file.read("w", 0, 3, 1, 4, out), Error);
  EXPECT_THROW(file.read("w", -1, 1, 0, 4, out), Error);
  EXPECT_THROW(file.write("v", values.data(), 1, 1, {}), Error);  // open for reading
  expect_input_error([&] { file.read("v", 0, 1, 0, 1, out); }, {"x.h5", "'v'"});
}

TEST(Hdf5, BadFilesAreInputErrorsOfOneLine) {
  const TemporaryFolder folder;
  testing::internal::CaptureStderr();
  expect_input_error([&] { Hdf5File::open_read(folder.file("none.h5")); }, {"none.h5", "No such file"});
  expect_input_error([&] { Hdf5File::open_read(folder.path.string()); }, {"folder"});
  folder.write("text.h5", std::string(5000, 't'));
  expect_input_error([&] { Hdf5File::open_read(folder.file("text.h5")); }, {"text.h5", "signature"});
  folder.write("empty.h5", "");
  expect_input_error([&] { Hdf5File::open_read(folder.file("empty.h5")); }, {"empty.h5"});
  expect_input_error([&] { Hdf5File::create(folder.file("none/x.h5")); }, {"none/x.h5", "No such file"});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");  // HDF5's own stack is not printed
}

TEST(Hdf5, EveryTruncationIsAnInputError) {
  const TemporaryFolder folder;
  const auto values = random_bits(1200);
  Hdf5File file = Hdf5File::create(folder.file("x.h5"));
  for (int i = 0; i < 3; ++i) file.write(rectangle_name("w", i), values.data(), 300, 4, {{{"n", {1}}}, {}});
  file.close();
  const std::string bytes = folder.read("x.h5");
  for (std::size_t n = 0; n < bytes.size(); n += 1 + bytes.size() / 97) {
    folder.write("cut.h5", bytes.substr(0, n));
    expect_input_error([&] { Hdf5File::open_read(folder.file("cut.h5")); }, {"cut.h5"});
  }
}

TEST(Hdf5, DamagedMetadataIsAnInputError) {
  const TemporaryFolder folder;
  const auto values = random_bits(12);
  Hdf5File file = Hdf5File::create(folder.file("x.h5"));
  file.write("w", values.data(), 3, 4, {});
  file.close();
  std::string bytes = folder.read("x.h5");
  bytes[20] = static_cast<char>(bytes[20] ^ 0x10);  // an address in the superblock
  folder.write("x.h5", bytes);
  expect_input_error([&] { Hdf5File::open_read(folder.file("x.h5")); }, {"x.h5", "checksum", "damaged"});
}

TEST(Hdf5, OtherPeoplesDatasetsAreNamed) {
  const TemporaryFolder folder;
  const hid_t file = H5Fcreate(folder.file("x.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t size[2] = {2, 3};
  for (const auto& [name, dimensions, type] :
       {std::tuple{"flat", 1, H5T_IEEE_F32LE}, {"ints", 2, H5T_STD_I32LE}, {"doubles", 2, H5T_IEEE_F64LE}}) {
    const hid_t space = H5Screate_simple(dimensions, size, nullptr);
    H5Dclose(H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
  }
  H5Fclose(file);
  const Hdf5File ours = Hdf5File::open_read(folder.file("x.h5"));
  float out[6];
  expect_input_error([&] { ours.read("flat", 0, 1, 0, 2, out); }, {"x.h5", "'flat'", "dimensions", "expected 2"});
  expect_input_error([&] { ours.read("ints", 0, 2, 0, 3, out); }, {"'ints'", "number type", "fp32 or bf16"});
  expect_input_error([&] { ours.read("doubles", 0, 2, 0, 3, out); }, {"'doubles'", "number type"});
  expect_input_error([&] { ours.list(); }, {"x.h5"});
}

// A disk that fills up: here a limit on the size of files.
TEST(Hdf5, FailedWritesAreErrors) {
  const TemporaryFolder folder;
  const std::vector<float> values(1 << 20, 1.0f);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1 << 16, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    Hdf5File file = Hdf5File::create(folder.file("x.h5"));
    file.write("w", values.data(), 1024, 1024, {});
    file.close();
  } catch (const Error& error) {
    message = error.what();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(message, "x.h5"));
  EXPECT_TRUE(contains(message, "File too large"));
  EXPECT_EQ(message.find('\n'), message.npos) << message;
  // And the next file is not affected.
  Hdf5File file = Hdf5File::create(folder.file("y.h5"));
  file.write("w", values.data(), 2, 2, {});
  file.close();
  EXPECT_EQ(Hdf5File::open_read(folder.file("y.h5")).list().size(), 1u);
}

}  // namespace
}  // namespace upcycle
