#include "data/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/rng.h"
#include "tests/data/expect_input_error.h"
#include "tests/data/stored_values.h"

namespace upcycle {
namespace {

std::string little_endian(std::uint64_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

std::string file_of(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

template <class T>
std::string bytes_of(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T)};
}

// Opens a file of these bytes.
SafetensorsFile opened(const std::string& bytes) {
  const TemporaryFolder folder;
  folder.write("x.safetensors", bytes);
  return SafetensorsFile::open(folder.file("x.safetensors"));
}

void expect_refused(const std::string& bytes, std::initializer_list<const char*> parts) {
  expect_input_error([&] { opened(bytes); }, parts);
}
void expect_header_refused(const std::string& header, const std::string& data,
                           std::initializer_list<const char*> parts) {
  expect_refused(file_of(header, data), parts);
}

const std::string eight(8, '\0');

TEST(Safetensors, ReadsEveryFloatTypeAsFp32) {
  const auto file = opened(file_of(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"c":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},)"
      R"("d":{"dtype":"BF16","shape":[],"data_offsets":[22,24]}}   )",
      bytes_of<float>({1.5f, -0.0f}) + bytes_of<double>({0.1}) + bytes_of<std::uint16_t>({0x3c01, 0x8001, 0xfc00}) +
          bytes_of<std::uint16_t>({0x3f81})));
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "b", "c", "d"}));
  float a[2], b, c[3], d;
  file.read_rows("a", 0, 1, a);
  EXPECT_EQ(a[0], 1.5f);
  EXPECT_TRUE(std::signbit(a[1]));
  file.read_rows("b", 0, 1, &b);
  EXPECT_EQ(b, 0.1f);
  file.read_rows("c", 0, 1, c);
  EXPECT_EQ(c[0], 1.0009765625f);
  EXPECT_EQ(c[1], -0x1p-24f);  // the smallest half, subnormal
  EXPECT_EQ(c[2], -INFINITY);
  file.read_rows("d", 0, 1, &d);
  EXPECT_EQ(d, 1.0078125f);
}

TEST(Safetensors, ViewsAsRowsAndColumns) {
  const auto file = opened(file_of(R"({"v":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                                   R"("s":{"dtype":"U8","shape":[],"data_offsets":[5,6]},)"
                                   R"("t":{"dtype":"I8","shape":[2,3,4],"data_offsets":[6,30]}})",
                                   std::string(30, 'x')));
  EXPECT_EQ(file.info("v").rows, 1);
  EXPECT_EQ(file.info("v").columns, 5);
  EXPECT_EQ(file.info("s").columns, 1);
  EXPECT_EQ(file.info("t").rows, 6);
  EXPECT_EQ(file.info("t").columns, 4);
  EXPECT_EQ(file.info("t").bytes(), 24u);
}

TEST(Safetensors, ReadsAnyRectangle) {
  // Rows of 3 KB, 12 KB and 2.4 MB: read as blocks of rows, row by row, and in parts of a row.
  for (const auto& [rows, columns, type, size] :
       {std::tuple{7, 1500, "BF16", 2}, {5, 6000, "BF16", 2}, {2, 1200000, "BF16", 2}, {9, 700, "F32", 4}}) {
    std::string data(static_cast<std::size_t>(rows * columns * size), '\0');
    const auto value = [&](int r, int c) { return static_cast<float>((r * columns + c) % 256); };  // exact in bf16
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        const float x = value(r, c);
        const bf16 y = to_bf16(x);
        std::memcpy(data.data() + (r * columns + c) * size, size == 4 ? static_cast<const void*>(&x) : &y,
                    static_cast<std::size_t>(size));
      }
    const auto file = opened(file_of(fmt::format(R"({{"w":{{"dtype":"{}","shape":[{},{}],"data_offsets":[0,{}]}}}})",
                                                 type, rows, columns, data.size()),
                                     data));
    for (const auto& [row, n, column, m] : {std::tuple{0, rows, 0, columns},
                                            {1, rows - 1, 3, columns - 5},
                                            {rows - 1, 1, columns - 1, 1},
                                            {0, rows, columns / 2, 7},
                                            {1, 0, 0, columns}}) {
      std::vector<float> out(static_cast<std::size_t>(n * m) + 1, -1.0f);
      file.read_rectangle("w", row, n, column, m, out.data());
      int wrong = 0;
      for (int r = 0; r < n; ++r)
        for (int c = 0; c < m; ++c) wrong += out[static_cast<std::size_t>(r * m + c)] != value(row + r, column + c);
      EXPECT_EQ(wrong, 0) << columns << " " << column;
      EXPECT_EQ(out.back(), -1.0f) << "wrote past the rectangle";
    }
    float none;
    EXPECT_THROW(file.read_rectangle("w", 0, rows + 1, 0, 1, &none), Error);
    EXPECT_THROW(file.read_rectangle("w", 0, 1, columns, 1, &none), Error);
    EXPECT_THROW(file.read_rectangle("w", -1, 1, 0, 1, &none), Error);
  }
}

TEST(Safetensors, EmptyFilesAndEmptyTensorsAreAllowed) {
  EXPECT_TRUE(opened(file_of("{}", "")).names().empty());
  const auto file = opened(file_of(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                                   R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                   R"("c":{"dtype":"F32","shape":[3,0],"data_offsets":[8,8]}})",
                                   eight));
  EXPECT_EQ(file.info("a").rows, 0);
  EXPECT_EQ(file.info("c").columns, 0);
  float none;
  file.read_rows("c", 0, 3, &none);
}

TEST(Safetensors, NamesAreNamed) {
  const auto file = opened(file_of(R"({"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})", eight));
  float out[2];
  expect_input_error([&] { file.info("b"); }, {"x.safetensors", "'b'", "missing"});
  expect_input_error([&] { file.read_rows("a", 0, 1, out); }, {"'a'", "dtype", "I32", "expected"});
}

TEST(SafetensorsHeader, MissingFile) {
  expect_input_error([] { SafetensorsFile::open("/nonexistent/x.safetensors"); }, {"/nonexistent/x.safetensors"});
}
TEST(SafetensorsHeader, Folder) {
  const TemporaryFolder folder;
  expect_input_error([&] { SafetensorsFile::open(folder.path.string()); }, {"folder", "expected a regular file"});
}
TEST(SafetensorsHeader, ShorterThanItsSize) { expect_refused("1234567", {"7 bytes", "expected at least the 8"}); }
TEST(SafetensorsHeader, SizePastTheFile) {
  expect_refused(little_endian(100) + "{}", {"header size", "found 100", "2 that follow", "truncated"});
}
TEST(SafetensorsHeader, SizePastTheLimit) {
  expect_refused(little_endian(100'000'001) + "{}", {"header size", "100000001", "at most 100000000"});
}
TEST(SafetensorsHeader, SizeOfAllOnes) { expect_refused(std::string(8, '\xff') + "{}", {"header size"}); }
TEST(SafetensorsHeader, Empty) { expect_header_refused("", "", {"begin with '{'"}); }
TEST(SafetensorsHeader, LeadingBlank) { expect_header_refused(" {}", "", {"begin with '{'"}); }
TEST(SafetensorsHeader, NotAnObject) { expect_header_refused("[]", "", {"begin with '{'"}); }
TEST(SafetensorsHeader, Unclosed) { expect_header_refused(R"({"a":)", "", {"not valid JSON"}); }
TEST(SafetensorsHeader, TextAfterTheObject) { expect_header_refused("{} {}", "", {"not valid JSON"}); }
TEST(SafetensorsHeader, InvalidUtf8) { expect_header_refused("{\"\xff\":1}", "", {"not valid JSON"}); }
TEST(SafetensorsHeader, ZeroBytesAsPadding) { expect_header_refused(std::string("{}\0\0", 4), "", {"not valid JSON"}); }
TEST(SafetensorsHeader, TensorTwice) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                        R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                        eight, {"'a'", "twice"});
}
TEST(SafetensorsHeader, FieldTwice) {
  expect_header_refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight,
                        {"'a'", "'dtype'", "twice"});
}
TEST(SafetensorsHeader, MetadataTwice) {
  expect_header_refused(R"({"__metadata__":{},"__metadata__":{}})", "", {"__metadata__", "twice"});
}
TEST(SafetensorsHeader, MetadataKeyTwice) {
  expect_header_refused(R"({"__metadata__":{"k":"1","k":"2"}})", "", {"'k'", "twice"});
}
TEST(SafetensorsHeader, MetadataNotText) {
  expect_header_refused(R"({"__metadata__":{"k":1}})", "", {"__metadata__", "'k'", "found 1", "expected text"});
  expect_header_refused(R"({"__metadata__":{"shape":[1]}})", "", {"__metadata__", "found a list", "expected text"});
  expect_header_refused(R"({"__metadata__":{"k":{}}})", "", {"__metadata__", "found an object", "expected text"});
}
TEST(SafetensorsHeader, TensorNotAnObject) {
  expect_header_refused(R"({"a":5})", "", {"'a'", "found 5", "expected an object"});
  expect_header_refused(R"({"a":null})", "", {"'a'", "found null"});
}
TEST(SafetensorsHeader, MissingFields) {
  expect_header_refused(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", eight, {"'a'", "dtype is missing"});
  expect_header_refused(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", eight, {"'a'", "shape is missing"});
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[2]}})", eight, {"'a'", "data_offsets is missing"});
}
TEST(SafetensorsHeader, UnknownField) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":"y"}})", eight,
                        {"'x'", "only dtype, shape and data_offsets"});
}
TEST(SafetensorsHeader, UnknownDtype) {
  expect_header_refused(R"({"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})", eight, {"'Q4'", "F64"});
}
TEST(SafetensorsHeader, DtypeNotText) {
  expect_header_refused(R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", eight, {"'dtype'", "expected text"});
}
TEST(SafetensorsHeader, BadShapes) {
  for (const char* shape : {"[-1]", "[1.5]", "[1e2]", "[[2]]", "[\"2\"]", "[null]", "2", "{}", "[9223372036854775808]",
                            "[99999999999999999999]"})
    expect_header_refused(fmt::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":[0,8]}}}})", shape), eight,
                          {"'a'", "'shape'"});
}
TEST(SafetensorsHeader, ShapeProductOverflows) {
  // 2^32 x 2^32 elements wrap to 0, and 2^62 elements of 4 bytes wrap to 0: both would fit [0, 0].
  for (const char* shape : {"[4294967296,4294967296]", "[4611686018427387904]", "[2305843009213693952,8,0]"})
    expect_header_refused(fmt::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":[0,0]}}}})", shape), "",
                          {"'a'", "shape", "product"});
}
TEST(SafetensorsHeader, BadOffsets) {
  for (const char* offsets : {"[0]", "[]", "[0,4,8]", "[-8,0]", "[0.0,8]", "8", "[0,[8]]", "[0,99999999999999999999]"})
    expect_header_refused(fmt::format(R"({{"a":{{"dtype":"F32","shape":[2],"data_offsets":{}}}}})", offsets), eight,
                          {"'a'", "data_offsets"});
}
TEST(SafetensorsHeader, OffsetsFall) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", eight, {"'a'", "[8, 0]", "rise"});
}
TEST(SafetensorsHeader, OffsetsPastTheData) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", eight, {"'a'", "12", "8 data"});
}
TEST(SafetensorsHeader, RangeIsNotTheShapes) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", eight,
                        {"'a'", "found 8 bytes", "expected 12"});
}
TEST(SafetensorsHeader, HoleAtTheBeginning) {
  expect_header_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight,
                        {"'a'", "found begin 4", "expected 0", "hole"});
}
TEST(SafetensorsHeader, HoleBetween) {
  expect_header_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})",
                        eight, {"'b'", "hole"});
}
TEST(SafetensorsHeader, Overlap) {
  expect_header_refused(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                        R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                        eight, {"'b'", "overlaps"});
}
TEST(SafetensorsHeader, TheSameBytesTwice) {
  expect_header_refused(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                        R"("b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
                        eight, {"overlaps"});
}
TEST(SafetensorsHeader, BytesAfterTheLastTensor) {
  expect_header_refused(R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,7]}})", eight, {"found 8", "7"});
  expect_header_refused("{}", eight, {"found 8", "0"});
}
TEST(SafetensorsHeader, DeepNesting) {
  std::string deep = R"({"a":)";
  for (int i = 0; i < 100000; ++i) deep += "[{\"a\":";
  expect_header_refused(deep, "", {"'a'", "expected an object"});
}

// The library's own message would quote a token of the header's length.
TEST(SafetensorsHeader, MessagesAreShort) {
  for (const std::string& header :
       {"{\"" + std::string(100000, 'a'), "{\"a\":{\"dtype\":" + std::string(100000, '9') + ".0}}",
        "{\"a\":{\"" + std::string(100000, 'b') + "\":\"" + std::string(100000, 'c') + "\"}}"})
    EXPECT_LT(input_error_of([&] { opened(file_of(header, "")); }).size(), 1000u);
}

TEST(Safetensors, ShrunkSinceOpening) {
  const TemporaryFolder folder;
  const std::string path =
      folder.write("x.safetensors", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight));
  const auto file = SafetensorsFile::open(path);
  std::filesystem::resize_file(path, file.info("a").end - 1);
  float out[2];
  expect_input_error([&] { file.read_rows("a", 0, 1, out); }, {"truncated"});
}

// Whatever the bytes: an InputError, or a file whose every tensor can be read.
TEST(Safetensors, DamagedFilesNeverCrash) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const std::string good =
      file_of(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},)"
              R"("bb":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I8","shape":[],)"
              R"("data_offsets":[32,33]}})",
              std::string(33, 'z'));
  const auto pick = [](std::uint64_t n, std::uint64_t round, std::uint64_t i) { return rng::below(n, 1, round, i); };
  const std::string likely = "0123456789[]{},:\"-.e \\a";
  int refused = 0, valid = 0;
  for (std::uint64_t round = 0; round < 3000; ++round) {
    std::string bytes = good;
    const std::uint64_t edits = 1 + pick(3, round, 0);
    for (std::uint64_t e = 0; e < edits; ++e) {
      const std::size_t at = pick(bytes.size(), round, 10 * e + 1);
      switch (pick(5, round, 10 * e + 2)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << pick(8, round, 10 * e + 3)));
          break;
        case 1:
          bytes[at] = likely[pick(likely.size(), round, 10 * e + 4)];
          break;
        case 2:
          bytes.insert(at, 1, likely[pick(likely.size(), round, 10 * e + 4)]);
          break;
        case 3:
          bytes.erase(at, 1 + pick(4, round, 10 * e + 4));
          break;
        case 4:
          bytes.resize(at + 1);
          break;
      }
    }
    // Half of the time the size fits the edited header again, so that the edits are reached.
    if (bytes.size() > 8 && pick(2, round, 99) == 0) {
      const std::size_t close = bytes.rfind('}');
      if (close != bytes.npos && close > 8) bytes.replace(0, 8, little_endian(close + 1 - 8));
    }
    std::filesystem::remove(path);  // some file systems sync a file that is overwritten
    folder.write("x.safetensors", bytes);
    try {
      const auto file = SafetensorsFile::open(path);
      for (const std::string& name : file.names()) {
        const StoredTensor& t = file.info(name);
        (void)stored_values<char>(path, t);
        if (is_float(t.type)) {
          std::vector<float> out(static_cast<std::size_t>(t.rows * t.columns));
          file.read_rows(name, 0, t.rows, out.data());
        }
      }
      ++valid;
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(valid, 100);
}

}  // namespace
}  // namespace upcycle
