#include "data/token_set.h"
#include "core/error.h"
#include "tests/core/input_error.h"

#include <sys/stat.h>

#include <cstring>
#include <numeric>

#include "data/token_set_writer.h"
#include "tests/data/temporary_folder.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// .idx by hand, from the layout in Megatron's indexed_dataset.py.
struct Index {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> sizes = {3, 0, 2};
  std::vector<std::int64_t> pointers = {0, 6, 6};
  std::vector<std::int64_t> documents = {0, 1, 3};
  std::string extra;
  std::uint64_t claimed_sequences = 3;

  std::string bytes() const {
    std::string out = magic;
    put(out, version);
    put(out, code);
    put(out, claimed_sequences);
    put<std::uint64_t>(out, documents.size());
    for (const auto v : sizes) put(out, v);
    for (const auto v : pointers) put(out, v);
    for (const auto v : documents) put(out, v);
    return out + extra;
  }
};

template <class T>
std::string ids_as(std::initializer_list<std::int64_t> ids) {
  std::string out;
  for (const auto id : ids) put(out, static_cast<T>(id));
  return out;
}
const std::string five_ids = ids_as<std::uint16_t>({7, 65499, 0, 11, 12});

std::vector<std::int32_t> all_of(const TokenSet& set) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(set.tokens()));
  set.read(0, set.tokens(), ids.data());
  return ids;
}

std::string open_error(const Index& index, const std::string& bin = five_ids) {
  const TemporaryFolder folder;
  folder.write("t.idx", index.bytes());
  folder.write("t.bin", bin);
  return input_error_of([&] { TokenSet::open(folder.file("t")); });
}

TEST(TokenSet, ReadsFilesInMegatronsLayout) {
  const TemporaryFolder folder;
  folder.write("t.idx", Index{}.bytes());
  folder.write("t.bin", five_ids);
  const TokenSet set = TokenSet::open(folder.file("t"));
  EXPECT_EQ(set.tokens(), 5);
  EXPECT_EQ(set.documents(), 2);
  EXPECT_EQ(set.document_starts(), (std::vector<std::int64_t>{0, 3, 5}));
  EXPECT_EQ(all_of(set), (std::vector<std::int32_t>{7, 65499, 0, 11, 12}));
  std::int32_t two[2];
  set.read(2, 2, two);
  EXPECT_EQ(two[0], 0);
  EXPECT_EQ(two[1], 11);
}

TEST(TokenSet, ReadsEveryIntegerType) {
  const std::vector<std::int32_t> expected = {7, 100, 0, 11, 12};
  const auto check = [&](int code, int width, const std::string& bin) {
    const TemporaryFolder folder;
    Index index;
    index.code = static_cast<std::uint8_t>(code);
    index.pointers = {0, 3 * width, 3 * width};
    folder.write("t.idx", index.bytes());
    folder.write("t.bin", bin);
    const TokenSet set = TokenSet::open(folder.file("t"));
    EXPECT_EQ(all_of(set), expected) << code;
  };
  check(1, 1, ids_as<std::uint8_t>({7, 100, 0, 11, 12}));
  check(2, 1, ids_as<std::int8_t>({7, 100, 0, 11, 12}));
  check(3, 2, ids_as<std::int16_t>({7, 100, 0, 11, 12}));
  check(4, 4, ids_as<std::int32_t>({7, 100, 0, 11, 12}));
  check(5, 8, ids_as<std::int64_t>({7, 100, 0, 11, 12}));
  check(8, 2, ids_as<std::uint16_t>({7, 100, 0, 11, 12}));
}

TEST(TokenSet, FollowsPointersThatAreNotInOrder) {
  const TemporaryFolder folder;
  Index index;
  index.sizes = {2, 1, 2};
  index.pointers = {6, 4, 0};
  folder.write("t.idx", index.bytes());
  folder.write("t.bin", five_ids);
  const TokenSet set = TokenSet::open(folder.file("t"));
  EXPECT_EQ(all_of(set), (std::vector<std::int32_t>{11, 12, 0, 7, 65499}));
  std::int32_t three[3];
  set.read(1, 3, three);
  EXPECT_EQ(three[0], 12);
  EXPECT_EQ(three[1], 0);
  EXPECT_EQ(three[2], 7);
}

TEST(TokenSet, PassesOverTheModesOfMultimodalSets) {
  const TemporaryFolder folder;
  Index index;
  index.extra = std::string(3, '\0');
  folder.write("t.idx", index.bytes());
  folder.write("t.bin", five_ids);
  EXPECT_EQ(TokenSet::open(folder.file("t")).tokens(), 5);
}

TEST(TokenSetWriter, WritesMegatronsBytes) {
  const TemporaryFolder folder;
  TokenSetWriter writer(folder.file("t"), 65499 + 0);
  add_document(writer, std::vector<std::int32_t>{1, 2, 258});
  writer.append(std::vector<std::int32_t>{4});
  writer.append(std::vector<std::int32_t>{5});
  writer.end_document();
  writer.finish();
  Index index;
  index.sizes = {3, 2};
  index.pointers = {0, 6};
  index.documents = {0, 1, 2};
  index.claimed_sequences = 2;
  EXPECT_EQ(folder.read("t.idx"), index.bytes());
  EXPECT_EQ(folder.read("t.bin"), ids_as<std::uint16_t>({1, 2, 258, 4, 5}));
  EXPECT_EQ(folder.names().size(), 2u);
}

TEST(TokenSetWriter, ChoosesTheTypeByTheVocabulary) {
  const TemporaryFolder folder;
  for (const auto& [vocab, code] : {std::pair{65499, 8}, {65500, 4}, {128256, 4}}) {
    TokenSetWriter writer(folder.file("t"), vocab);  // over the set written before
    add_document(writer, std::vector<std::int32_t>{vocab - 1, 0});
    writer.finish();
    EXPECT_EQ(folder.read("t.idx")[17], code) << vocab;
    EXPECT_EQ(all_of(TokenSet::open(folder.file("t"), vocab)), (std::vector<std::int32_t>{vocab - 1, 0}));
  }
}

TEST(TokenSetWriter, RoundTripsMoreThanItsBuffer) {
  const TemporaryFolder folder;
  std::vector<std::int32_t> ids(700000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7919 % 100000);
  TokenSetWriter writer(folder.file("t"), 100000);
  for (std::size_t at = 0; at < ids.size(); at += 1000) add_document(writer, {ids.data() + at, 1000});
  writer.finish();
  const TokenSet set = TokenSet::open(folder.file("t"));
  EXPECT_EQ(set.documents(), 700);
  const std::vector<std::int64_t> starts = document_starts(folder.file("t"));
  EXPECT_EQ(starts.size(), 701u);
  EXPECT_EQ(starts[699], 699000);
  EXPECT_EQ(all_of(set), ids);
}

TEST(TokenSetWriter, LeavesNothingBehindUnlessFinished) {
  const TemporaryFolder folder;
  {
    TokenSetWriter writer(folder.file("t"), 100);
    add_document(writer, std::vector<std::int32_t>{1});
    EXPECT_EQ(folder.names().size(), 2u);
  }
  EXPECT_TRUE(folder.names().empty());
  {
    TokenSetWriter writer(folder.file("t"), 100);
    EXPECT_THROW(writer.append(std::vector<std::int32_t>{100}), Error);
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(TokenSetWriter, MakesItsFolderAndRefusesASecondWriter) {
  const TemporaryFolder folder;
  { const TokenSetWriter in_a_new_folder(folder.file("new/t"), 100); }
  const std::string file = folder.write("a_file", "");
  EXPECT_TRUE(contains(input_error_of([&] { TokenSetWriter(file + "/t", 100); }), "cannot make the folder"));
  TokenSetWriter first(folder.file("t"), 100);
  EXPECT_TRUE(contains(input_error_of([&] { TokenSetWriter(folder.file("t"), 100); }), "another process"));
  add_document(first, std::vector<std::int32_t>{5});
  first.finish();
  EXPECT_EQ(TokenSet::open(folder.file("t")).tokens(), 1);
}

TEST(TokenSetWriter, TakesOverWhatAKilledWriterLeft) {
  const TemporaryFolder folder;
  folder.write("t.bin.tmp", std::string(1000, 'x'));
  TokenSetWriter writer(folder.file("t"), 100);
  add_document(writer, std::vector<std::int32_t>{5});
  writer.finish();
  EXPECT_EQ(folder.read("t.bin").size(), 2u);
}

TEST(TokenSetWriter, EmptySetReadsBack) {
  const TemporaryFolder folder;
  TokenSetWriter(folder.file("t"), 100).finish();
  const TokenSet set = TokenSet::open(folder.file("t"));
  EXPECT_EQ(set.tokens(), 0);
  EXPECT_EQ(set.documents(), 0);
}

TEST(TokenSetErrors, MissingFiles) {
  const TemporaryFolder folder;
  folder.write("t.bin", five_ids);
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("t")); }), "t.idx: cannot be read"));
  folder.write("u.idx", Index{}.bytes());
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("u")); }), "u.bin: cannot be read"));
  std::filesystem::create_directory(folder.path / "v.idx");
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("v")); }), "v.idx: is not a regular file"));
}

TEST(TokenSetErrors, EveryTruncationOfTheIndex) {
  const TemporaryFolder folder;
  folder.write("t.bin", five_ids);
  const std::string whole = Index{}.bytes();
  for (std::size_t n = 0; n < whole.size(); ++n) {
    folder.write("t.idx", whole.substr(0, n));
    EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("t")); }), "t.idx: truncated")) << n;
  }
}

TEST(TokenSetErrors, EveryTruncationOfTheTokens) {
  for (std::size_t n = 0; n < five_ids.size(); ++n)
    EXPECT_TRUE(contains(open_error({}, five_ids.substr(0, n)), "truncated or of another")) << n;
  EXPECT_TRUE(contains(open_error({}, five_ids + "x"), "t.bin: has 11 bytes"));
}

TEST(TokenSetErrors, Header) {
  Index index;
  index.magic[0] = 'X';
  EXPECT_TRUE(contains(open_error(index), "not a token set index"));
  index = {};
  index.version = 2;
  EXPECT_TRUE(contains(open_error(index), "version is 2, expected 1"));
  for (const int code : {0, 6, 7, 9, 255}) {
    index = {};
    index.code = static_cast<std::uint8_t>(code);
    EXPECT_TRUE(contains(open_error(index), fmt::format("dtype code is {}", code)));
  }
  index = {};
  index.extra = "xx";
  EXPECT_TRUE(contains(open_error(index), "2 bytes too many"));
  for (const std::uint64_t claimed : {std::uint64_t{4}, ~std::uint64_t{0}, std::uint64_t{1} << 62}) {
    index = {};
    index.claimed_sequences = claimed;
    EXPECT_TRUE(contains(open_error(index), "cannot hold"));
  }
}

TEST(TokenSetErrors, Arrays) {
  Index index;
  index.sizes[0] = -3;
  EXPECT_TRUE(contains(open_error(index), "sequence 0 has size -3"));
  for (const std::int64_t pointer : {std::int64_t{-2}, std::int64_t{8}, INT64_MAX, INT64_MIN}) {
    index = {};
    index.pointers[2] = pointer;
    EXPECT_TRUE(contains(open_error(index), "sequence 2 is 4 bytes at byte")) << pointer;
  }
  index = {};
  index.sizes[2] = INT32_MAX;
  EXPECT_TRUE(contains(open_error(index), "sequence 2 is 4294967294 bytes"));
  for (const auto& documents :
       std::vector<std::vector<std::int64_t>>{{1, 1, 3}, {0, 4, 3}, {0, 2, 1}, {0, 1, 2}, {0, -1, 3}, {}}) {
    index = {};
    index.documents = documents;
    EXPECT_TRUE(contains(open_error(index), "document ind"));
  }
}

// Opening a pipe without a writer would wait for ever.
TEST(TokenSetErrors, Pipes) {
  const TemporaryFolder folder;
  folder.write("t.bin", five_ids);
  ASSERT_EQ(::mkfifo(folder.file("t.idx").c_str(), 0600), 0);
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("t")); }), "not a regular file"));
}

TEST(TokenSetErrors, IdsOutsideTheVocabulary) {
  const TemporaryFolder folder;
  folder.write("t.idx", Index{}.bytes());
  folder.write("t.bin", five_ids);
  const TokenSet set = TokenSet::open(folder.file("t"), 512);
  std::int32_t ids[5];
  set.read(2, 3, ids);  // the others are fine
  const std::string message = input_error_of([&] { set.read(0, 5, ids); });
  EXPECT_TRUE(contains(message, "t.bin: token 1 is id 65499"));
  EXPECT_TRUE(contains(message, "vocabulary of 512"));
  EXPECT_EQ(TokenSet::open(folder.file("t"), 65500).vocab_size(), 65500);

  Index wide;
  wide.code = 5;
  wide.pointers = {0, 24, 24};
  folder.write("w.idx", wide.bytes());
  folder.write("w.bin", ids_as<std::int64_t>({1, 2, std::int64_t{1} << 32, 3, -1}));
  const TokenSet without_vocabulary = TokenSet::open(folder.file("w"));
  EXPECT_TRUE(contains(input_error_of([&] { without_vocabulary.read(0, 3, ids); }), "token 2 is id 4294967296"));
  EXPECT_TRUE(contains(input_error_of([&] { without_vocabulary.read(3, 2, ids); }), "token 4 is id -1"));
  EXPECT_THROW(set.read(4, 2, ids), Error);
}

TEST(TokenSetErrors, ForeignIdsAreFoundBeforeTheyAreNeeded) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, std::size_t foreign_at) {
    std::vector<std::int32_t> ids(5 * 4096 - 7, 3);
    ids[foreign_at] = 600;
    TokenSetWriter writer(folder.file(name), 1000);
    add_document(writer, ids);
    writer.finish();
    return TokenSet::open(folder.file(name), 512);
  };
  write("end", 5 * 4096 - 8);
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(folder.file("end"), 512).check_ids(); }),
                       "end.bin: token 20472 is id 600"));
  TokenSet::open(folder.file("end"), 601).check_ids();
  // 8192 of the tokens: pieces 0, 1 and 3 of the five.
  EXPECT_THROW(write("third", 3 * 4096).check_ids(8192), InputError);
  write("fourth", 4 * 4096).check_ids(8192);
}

}  // namespace
}  // namespace upcycle
