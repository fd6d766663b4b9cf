#include <fmt/core.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstring>
#include <functional>

#include "data/hdf5.h"
#include "tests/core/input_error.h"
#include "tests/data/expect_input_error.h"

// A dataset is contiguous numbers of its own file. HDF5's other kinds of storage would let a file that passes its
// checksum read other files of this machine, or numbers that were never written.
namespace upcycle {
namespace {

constexpr hsize_t size[2] = {2, 3};
constexpr float values[6] = {1, 2, 3, 4, 5, 6};

struct Storage : testing::Test {
  TemporaryFolder folder;
  std::string path = folder.file("x.h5");

  // A file "x.h5" with the group "w" and what `fill` adds.
  void make(const std::function<void(hid_t file)>& fill) {
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, "w", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    fill(file);
    ASSERT_EQ(H5Fget_obj_count(file, H5F_OBJ_ALL), 1) << "the test left an object open";
    ASSERT_GE(H5Fclose(file), 0);
  }
  // A dataset (2, 3) of fp32 with the properties that `set` makes; written where `write`.
  static void dataset(hid_t file, const char* name, const std::function<void(hid_t)>& set = {}, bool write = true,
                      hid_t type = H5T_IEEE_F32LE) {
    const hid_t space = H5Screate_simple(2, size, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
    if (set) set(properties);
    const hid_t made = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(made, 0);
    if (write) {
      ASSERT_GE(H5Dwrite(made, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    }
    H5Dclose(made);
    H5Pclose(properties);
    H5Sclose(space);
  }
  // Both ways of reading the numbers name file, dataset, found and expected.
  void refused(const char* name, std::initializer_list<const char*> parts) {
    const Hdf5File file = Hdf5File::open_read(path);
    const std::string quoted = fmt::format("'{}'", name);
    for (const bool listed : {true, false}) {
      const std::string text = input_error_of([&] {
        float out[6];
        if (listed)
          (void)file.list();
        else
          file.read(name, 0, 2, 0, 3, out);
      });
      for (const char* part : {"x.h5", quoted.c_str(), "found", "expected"}) EXPECT_TRUE(contains(text, part));
      for (const char* part : parts) EXPECT_TRUE(contains(text, part));
      EXPECT_EQ(text.find('\n'), text.npos) << text;
    }
  }
};

TEST_F(Storage, PlainDatasetsOfOthersAreRead) {
  make([](hid_t file) { dataset(file, "w/0"); });
  const Hdf5File file = Hdf5File::open_read(path);
  EXPECT_EQ(file.list().at(0).name, "w/0");
  float out[6];
  file.read("w/0", 0, 2, 0, 3, out);
  EXPECT_EQ(std::memcmp(out, values, sizeof out), 0);
}

TEST_F(Storage, ExternalFilesAreRefused) {
  const std::string secret = folder.write("secret.txt", "not for everyone's eyes!");
  make([&](hid_t file) {
    dataset(
        file, "w/0", [&](hid_t p) { ASSERT_GE(H5Pset_external(p, secret.c_str(), 0, sizeof values), 0); }, false);
  });
  refused("w/0", {"external storage", "secret.txt"});
  const hid_t bf16_type = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(bf16_type, 15, 7, 8, 0, 7);
  H5Tset_precision(bf16_type, 16);
  H5Tset_size(bf16_type, 2);
  H5Tset_ebias(bf16_type, 127);
  make([&](hid_t file) {
    dataset(
        file, "w/0", [&](hid_t p) { ASSERT_GE(H5Pset_external(p, secret.c_str(), 0, 12), 0); }, false, bf16_type);
  });
  H5Tclose(bf16_type);
  refused("w/0", {"external storage", "secret.txt"});
}

TEST_F(Storage, ChunksFiltersAndCompactOnesAreRefused) {
  make([](hid_t file) { dataset(file, "w/0", [](hid_t p) { H5Pset_chunk(p, 2, size); }); });
  refused("w/0", {"chunked", "contiguous"});
  make([](hid_t file) {
    dataset(file, "w/0", [](hid_t p) {
      H5Pset_chunk(p, 2, size);
      ASSERT_GE(H5Pset_shuffle(p), 0);
    });
  });
  refused("w/0", {"chunked", "1 filter"});
  make([](hid_t file) { dataset(file, "w/0", [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }); });
  refused("w/0", {"compact", "contiguous"});
}

TEST_F(Storage, VirtualDatasetsAreRefused) {
  const std::string other = folder.file("other.h5");
  const hid_t file = H5Fcreate(other.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  dataset(file, "d");
  H5Fclose(file);
  make([&](hid_t f) {
    const hid_t space = H5Screate_simple(2, size, nullptr);
    dataset(
        f, "w/0", [&](hid_t p) { ASSERT_GE(H5Pset_virtual(p, space, other.c_str(), "d", space), 0); }, false);
    H5Sclose(space);
  });
  refused("w/0", {"virtual"});
}

TEST_F(Storage, LinksAreRefused) {
  const std::string other = folder.file("other.h5");
  const hid_t file = H5Fcreate(other.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Gclose(H5Gcreate2(file, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  dataset(file, "g/0");
  H5Fclose(file);
  make([&](hid_t f) { H5Lcreate_external(other.c_str(), "g/0", f, "w/0", H5P_DEFAULT, H5P_DEFAULT); });
  refused("w/0", {"external link"});
  make([&](hid_t f) { H5Lcreate_soft("/v", f, "w/0", H5P_DEFAULT, H5P_DEFAULT); });  // to nothing
  refused("w/0", {"soft link"});
  make([&](hid_t f) {
    dataset(f, "w/0");
    H5Lcreate_soft("/w/0", f, "w/1", H5P_DEFAULT, H5P_DEFAULT);
  });
  refused("w/1", {"soft link"});
  // A group of another file, whose datasets are plain ones there.
  make([&](hid_t f) { H5Lcreate_external(other.c_str(), "g", f, "v", H5P_DEFAULT, H5P_DEFAULT); });
  const Hdf5File x = Hdf5File::open_read(path);
  float out[6];
  expect_input_error([&] { (void)x.list(); }, {"x.h5", "'v'", "external link"});
  expect_input_error([&] { x.read("v/0", 0, 2, 0, 3, out); }, {"x.h5", "'v'", "external link"});
}

TEST_F(Storage, OneDatasetUnderTwoNamesIsRefused) {
  make([](hid_t f) {
    dataset(f, "w/0");
    H5Lcreate_hard(f, "w/0", f, "w/1", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_input_error([&] { (void)Hdf5File::open_read(path).list(); },
                     {"x.h5", "'w/0'", "2 hard links", "linked to 1 time"});
  make([](hid_t f) { H5Lcreate_hard(f, "/", f, "w/loop", H5P_DEFAULT, H5P_DEFAULT); });
  expect_input_error([&] { (void)Hdf5File::open_read(path).list(); }, {"x.h5", "'w/loop'", "2 hard links"});
}

TEST_F(Storage, NamedTypesAreRefused) {
  make([](hid_t f) {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    ASSERT_GE(H5Tcommit2(f, "type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), 0);
    dataset(f, "w/0", {}, true, type);
    H5Tclose(type);
  });
  const Hdf5File file = Hdf5File::open_read(path);
  float out[6];
  expect_input_error([&] { (void)file.list(); }, {"x.h5", "'type'", "named", "expected groups and datasets"});
  expect_input_error([&] { file.read("w/0", 0, 2, 0, 3, out); }, {"x.h5", "'w/0'", "named number type"});
}

TEST_F(Storage, ValuesThatWereNeverWrittenAreRefused) {
  make([](hid_t f) { dataset(f, "w/0", {}, false); });
  refused("w/0", {"no stored values", "24 bytes"});
}

// The oldest format has no checksums, so that an address or a size can be changed by hand.
TEST_F(Storage, AddressesAndSizesThatDoNotFitAreRefused) {
  haddr_t address = 0;
  make([&](hid_t f) {
    dataset(f, "w/0");
    const hid_t d = H5Dopen2(f, "w/0", H5P_DEFAULT);
    address = H5Dget_offset(d);
    H5Dclose(d);
  });
  const std::string bytes = folder.read("x.h5");
  const std::uint64_t entry[2] = {address, sizeof values};  // as the layout message has them: address, size
  const std::size_t at = bytes.find(std::string(reinterpret_cast<const char*>(entry), sizeof entry));
  ASSERT_NE(at, bytes.npos);
  const auto put = [&](std::uint64_t new_address, std::uint64_t new_size) {
    std::string changed = bytes;
    std::memcpy(&changed[at], &new_address, 8);
    std::memcpy(&changed[at + 8], &new_size, 8);
    folder.write("x.h5", changed);
  };
  put(address, sizeof values);
  float out[6];
  Hdf5File::open_read(path).read("w/0", 0, 2, 0, 3, out);
  put(bytes.size() - 4, sizeof values);
  refused("w/0", {"24 bytes"});
  put(std::uint64_t{1} << 62, sizeof values);
  refused("w/0", {"24 bytes"});
  put(address, sizeof values - 4);
  refused("w/0", {"24"});
}

}  // namespace
}  // namespace upcycle
