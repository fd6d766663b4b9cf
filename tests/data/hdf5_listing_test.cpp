#include "data/hdf5_listing.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

// As many datasets as make HDF5 keep a group's links in another way than those of a small one.
std::string write_file(const TemporaryFolder& folder) {
  const std::string path = folder.file("x.h5");
  Hdf5File file = Hdf5File::create(path);
  file.write_attributes({{{"step", {7}}}, {{"text", "said"}}});
  for (int i = 0; i < 20; ++i)
    file.write(fmt::format("tensor{}/0", i), values.data(), 3, 4, {{{"offset", {i, 0}}}, {{"name", "t"}}});
  const std::vector<bf16> halves(6, to_bf16(1.5F));
  file.write("half/0", halves.data(), 2, 3, {});
  file.close();
  return path;
}

TEST(Hdf5Listing, IsWhatTheLibrarySays) {
  const TemporaryFolder folder;
  const std::string path = write_file(folder);
  const Hdf5Listing listing = list_hdf5(path);
  const Hdf5File file = Hdf5File::open_read(path);
  const std::vector<Hdf5Dataset> datasets = file.list();
  EXPECT_EQ(listing.path, path);
  EXPECT_EQ(listing.attributes, file.attributes());
  ASSERT_EQ(listing.datasets.size(), 21u);
  ASSERT_EQ(datasets.size(), 21u);
  const std::string bytes = folder.read("x.h5");
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const Hdf5Listing::Dataset& d = listing.datasets[i];
    EXPECT_EQ(d.name, datasets[i].name);
    EXPECT_EQ(d.rows, datasets[i].rows);
    EXPECT_EQ(d.columns, datasets[i].columns);
    EXPECT_EQ(d.type, datasets[i].type);
    EXPECT_EQ(d.attributes, datasets[i].attributes);
    EXPECT_EQ(d.offset, file.offset_of(datasets[i]));
    if (d.type != DType::F32) continue;
    EXPECT_EQ(std::memcmp(bytes.data() + d.offset, values.data(), 48), 0);
  }
}

TEST(Hdf5Listing, WhatIsNoneIsOneLine) {
  const TemporaryFolder folder;
  expect_input_error([&] { (void)list_hdf5(folder.file("none.h5")); }, {"none.h5", "No such file"});
  folder.write("text.h5", "no HDF5");
  expect_input_error([&] { (void)list_hdf5(folder.file("text.h5")); }, {"text.h5", "signature"});
}

// Whatever the bytes are, this process is none the worse.
TEST(Hdf5Listing, RandomBytesAnywhere) {
  const TemporaryFolder folder;
  write_file(folder);
  const std::string good = folder.read("x.h5");
  std::mt19937_64 random(5);
  for (int i = 0; i < 200; ++i) {
    std::string bad = good;
    for (int n = 0; n < 3; ++n) bad[random() % bad.size()] = static_cast<char>(random());
    folder.write("bad.h5", bad);
    try {
      for (const auto& d : list_hdf5(folder.file("bad.h5")).datasets)
        EXPECT_LE(d.offset + static_cast<std::uint64_t>(d.rows * d.columns) * size_of(d.type), bad.size());
    } catch (const InputError& e) {
      EXPECT_TRUE(contains(e.what(), "bad.h5"));
    }
  }
}

}  // namespace
}  // namespace upcycle
