#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/hash.h"
#include "data/hdf5.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/models/export.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

class BadCheckpoint : public testing::Test {
 protected:
  BadCheckpoint() { save_as(run, small_model(0), make_layout(2, 1, 1, 1), 7); }

  void refused(std::initializer_list<const char*> parts) {
    expect_input_error([&] { open_checkpoint(run); }, parts);
  }
  std::string at(const std::string& name) const { return step + "/" + name; }
  std::string bytes(const std::string& name) const { return folder.read("run/step_00000007/" + name); }
  void put(const std::string& name, const std::string& text) { folder.write("run/step_00000007/" + name, text); }
  void edit(const std::function<void(json&)>& change) {
    json j = json::parse(bytes("manifest.json"));
    j.erase("manifest_hash");  // as version 1 had it
    j["format_version"] = 1;
    change(j);
    put("manifest.json", j.dump());
  }
  // Replaces a file and makes the manifest agree: damage that no hash finds.
  void relist(const std::string& name) {
    edit([&](json& j) {
      for (json& f : j["files"])
        if (f["name"] == name) {
          f["bytes"] = fs::file_size(at(name));
          f["hash"] = hash_file(at(name));
        }
    });
  }

  TemporaryFolder folder;
  std::string run = folder.file("run"), step = run + "/step_00000007";
};

TEST_F(BadCheckpoint, GoodOneOpens) { EXPECT_NO_THROW(open_checkpoint(run)); }

TEST_F(BadCheckpoint, NoSuchFolderOrNoCheckpoint) {
  expect_input_error([&] { open_checkpoint(folder.file("none")); }, {"none", "no such folder"});
  fs::create_directory(folder.file("empty"));
  expect_input_error([&] { open_checkpoint(folder.file("empty")); }, {"empty", "latest", "manifest.json"});
  expect_input_error([&] { open_model(folder.file("empty")); }, {"empty", "config.json"});
  expect_input_error([&] { open_model(folder.file("none")); }, {"none", "no such folder"});
}

TEST_F(BadCheckpoint, LatestNamesNoStep) {
  folder.write("run/latest", "step_00000008\n");
  refused({"run/latest", "step_00000008"});
  folder.write("run/latest", "../other\n");
  refused({"run/latest", "../other"});
}

TEST_F(BadCheckpoint, MissingFile) {
  fs::remove(at("model.rank00001.h5"));
  refused({"model.rank00001.h5", "no such file", "copy it back"});
}

TEST_F(BadCheckpoint, RenamedFile) {
  fs::rename(at("model.rank00001.h5"), at("model.rank00007.h5"));
  refused({"model.rank00001.h5", "model.rank00007.h5", "rename"});
}

TEST_F(BadCheckpoint, SwappedFiles) {
  fs::copy_file(at("model.rank00000.h5"), at("x"));
  fs::rename(at("model.rank00001.h5"), at("model.rank00000.h5"));
  fs::rename(at("x"), at("model.rank00001.h5"));
  refused({"model.rank00000.h5", "expected"});  // by its size or its hash
  edit([&](json& j) {
    for (json& f : j["files"])
      if (f["name"] == "model.rank00000.h5" || f["name"] == "model.rank00001.h5")
        f["bytes"] = fs::file_size(at(f["name"].get<std::string>()));
  });
  refused({"model.rank00000.h5", "contents of model.rank00001.h5", "swapped"});
}

TEST_F(BadCheckpoint, TruncatedAtEveryKindOfPlace) {
  const std::string whole = bytes("optimizer.rank00000.h5");
  for (const std::size_t n : {std::size_t{0}, std::size_t{7}, whole.size() / 2, whole.size() - 1}) {
    put("optimizer.rank00000.h5", whole.substr(0, n));
    refused({"optimizer.rank00000.h5", "truncated"});
  }
  put("optimizer.rank00000.h5", whole + "x");
  refused({"optimizer.rank00000.h5", "was changed"});
}

TEST_F(BadCheckpoint, DamagedByte) {
  std::string whole = bytes("model.rank00000.h5");
  whole[whole.size() - 1] ^= 1;
  put("model.rank00000.h5", whole);
  refused({"model.rank00000.h5", "hash", "damaged"});
}

TEST_F(BadCheckpoint, FileOfAnotherRun) {
  save_as(folder.file("other"), small_model(0), make_layout(2, 1, 1, 1), 8);
  fs::copy_file(folder.file("other/step_00000008/model.rank00000.h5"), at("model.rank00000.h5"),
                fs::copy_options::overwrite_existing);
  refused({"model.rank00000.h5", "hash", "another checkpoint"});
  relist("model.rank00000.h5");
  refused({"model.rank00000.h5", "step", "found 8", "expected 7"});
}

TEST_F(BadCheckpoint, OverlapAndHole) {
  const auto rewrite = [&](const Rectangle& part) {
    hdf5_thread().run([&] {
      const std::string path = at("model.rank00000.h5");
      fs::remove(path);
      Hdf5File file = Hdf5File::create(path);
      file.write_attributes(file_attributes(7, 0));
      const std::vector<float> values(static_cast<std::size_t>(part.size()));
      file.write("model.embed_tokens.weight/0", values.data(), part.rows, part.columns,
                 rectangle_attributes(61, 24, false, part));
      file.close();
    });
    relist("model.rank00000.h5");
  };
  rewrite({0, 0, 61, 24});
  refused({"model.embed_tokens.weight", "twice", "model.rank00000.h5", "model.rank00001.h5"});
  rewrite({0, 0, 1, 24});
  refused({"model.embed_tokens.weight", "elements", "expected 1464"});
  rewrite({60, 0, 2, 24});
  refused({"model.rank00000.h5", "model.embed_tokens.weight/0", "61 x 24"});
}

TEST_F(BadCheckpoint, NotHdf5ThoughListed) {
  put("model.rank00000.h5", "not HDF5 at all");
  relist("model.rank00000.h5");
  refused({"model.rank00000.h5"});
}

// A file whose checksum is right but whose numbers are in another file of this machine.
TEST_F(BadCheckpoint, ExternalStorageIsNotRead) {
  const std::string secret = folder.write("secret.txt", std::string(4 * 61 * 24, 's'));
  hdf5_thread().run([&] {
    const std::string tensor = "model.embed_tokens.weight";
    for (const char* name : {"model.rank00001.h5", "model.rank00000.h5"}) {
      const hid_t file = H5Fopen(at(name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
      ASSERT_GE(H5Ldelete(file, tensor.c_str(), H5P_DEFAULT), 0);
      H5Fclose(file);
    }
    const hid_t file = H5Fopen(at("model.rank00000.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, tensor.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    const hsize_t size[2] = {61, 24}, two = 2;
    const hid_t space = H5Screate_simple(2, size, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
    ASSERT_GE(H5Pset_external(properties, secret.c_str(), 0, 4 * 61 * 24), 0);
    const hid_t made =
        H5Dcreate2(file, (tensor + "/0").c_str(), H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    const hid_t pair = H5Screate_simple(1, &two, nullptr);
    for (const auto& [name, values] : rectangle_attributes(61, 24, false, {0, 0, 61, 24}).numbers) {
      const hid_t a = H5Acreate2(made, name.c_str(), H5T_STD_I64LE, pair, H5P_DEFAULT, H5P_DEFAULT);
      ASSERT_GE(H5Awrite(a, H5T_NATIVE_INT64, values.data()), 0);
      H5Aclose(a);
    }
    H5Sclose(pair);
    H5Dclose(made);
    H5Pclose(properties);
    H5Sclose(space);
    ASSERT_GE(H5Fclose(file), 0);
  });
  relist("model.rank00000.h5");
  relist("model.rank00001.h5");
  refused({"model.rank00000.h5", "'model.embed_tokens.weight/0'", "external storage", "secret.txt", "expected"});
  const std::string out = folder.file("hf");
  expect_input_error([&] { export_huggingface(*open_model(run), read_origin(travelling_files(step)), out, {}); },
                     {"external storage"});
  EXPECT_FALSE(fs::exists(out));
}

// Only files that the manifest lists, with their checksums, are copied from a step folder.
TEST_F(BadCheckpoint, FilesThatAreNotListedDoNotTravel) {
  const std::string secret = folder.write("secret.txt", "not for everyone's eyes");
  fs::create_symlink(secret, at("tokenizer.json"));
  put("vocab.json", "{}");
  EXPECT_EQ(travelling_files(step), std::vector<std::string>{});
  const std::string out = folder.file("hf");
  export_huggingface(*open_model(run), read_origin(travelling_files(step)), out, {});
  EXPECT_TRUE(fs::exists(out + "/config.json"));
  EXPECT_FALSE(fs::exists(out + "/tokenizer.json"));
  EXPECT_FALSE(fs::exists(out + "/vocab.json"));
}

TEST_F(BadCheckpoint, NewerFormat) {
  edit([](json& j) { j["format_version"] = 3; });
  refused({"manifest.json", "format_version", "found 3", "at most 2", "update"});
}

TEST_F(BadCheckpoint, AManifestWithoutItsHash) {
  edit([](json& j) { j["format_version"] = 2; });
  refused({"manifest.json", "manifest_hash", "no such key"});
}

TEST_F(BadCheckpoint, MissingAndMistypedKeys) {
  edit([](json&) {});
  const json good = json::parse(bytes("manifest.json"));
  for (const auto& [key, value] : good.items()) {
    json j = good;
    j.erase(key);
    put("manifest.json", j.dump());
    refused({"manifest.json", key.c_str(), "no such key"});
    if (key == "config") continue;  // may be null
    j = good;
    j[key] = nullptr;
    put("manifest.json", j.dump());
    refused({"manifest.json", key.c_str(), "found", "expected"});
  }
}

TEST_F(BadCheckpoint, WrongEntries) {
  const std::string good = bytes("manifest.json");
  const auto edited = [&](const std::function<void(json&)>& change, std::initializer_list<const char*> parts) {
    put("manifest.json", good);
    edit(change);
    refused(parts);
  };
  edited([](json& j) { j["step"] = -1; }, {"step", "-1"});
  edited([](json& j) { j["step"] = 1.5; }, {"step", "1.5", "an integer"});
  edited([](json& j) { j["step"] = 18446744073709551615u; }, {"step", "18446744073709551615"});
  edited([](json& j) { j["files"][0]["name"] = "../../secret"; }, {"files[0].name", "../../secret", "same folder"});
  edited([](json& j) { j["files"][0]["name"] = j["files"][1]["name"]; }, {"files[1].name", "once"});
  edited([](json& j) { j["files"][1]["hash"] = "zz"; }, {"files[1].hash", "32 hexadecimal"});
  edited([](json& j) { j["files"] = json::array(); }, {"files", "at least one"});
  edited([](json& j) { j["files"][0] = 3; }, {"files[0]", "an object"});
  edited([](json& j) { j["tensors"].erase(3); }, {"tensors", "expected the model's 21"});
  edited([](json& j) { j["tensors"][0]["shape"] = {61, 25}; }, {"tensors[0].shape", "[61,25]", "[61,24]"});
  edited([](json& j) { j["tensors"][0]["name"] = "x"; }, {"tensors[0].name", "model.embed_tokens.weight"});
  edited([](json& j) { j["model"]["num_hidden_layers"] = 60000; }, {"tensors", "60000 layers"});
  edited([](json& j) { j["model"]["num_hidden_layers"] = 1000000000; }, {"model.num_hidden_layers: found 1000000000"});
  edited([](json& j) { j["model"]["hidden_size"] = -3; }, {"hidden_size", "-3"});
  edited([](json& j) { j["model"]["hiden_size"] = 3; }, {"hiden_size"});
  edited([](json& j) { j["layout"]["tp"] = 0; }, {"layout.tp", "found 0"});
  edited([](json& j) { j["layout"]["tp"] = 5; }, {"layout", "world = tp * dp"});
  edited([](json& j) { j["tokenizer"] = "t.model"; }, {"tokenizer", "t.model"});
  edited([](json& j) { j["init"] = "x\x1b[2J"; }, {"init", "\\u001b[2J", "control characters"});
}

TEST_F(BadCheckpoint, NamesThatLeadElsewhereOrCanNotBePrinted) {
  const std::string good = bytes("manifest.json");
  for (const std::string& name : {std::string("/etc/hostname"), std::string(".."), std::string("a/../b"), std::string(),
                                  std::string("manifest.json"), std::string("x\x1b[2J"), std::string("x\n"),
                                  std::string("x\0y", 3), std::string(300, 'x')}) {
    put("manifest.json", good);
    edit([&](json& j) { j["files"][0]["name"] = name; });
    refused({"manifest.json", "files[0].name", "same folder"});
  }
}

// Opening a pipe without a writer would wait for ever; printing what is nested deeply takes a stack as deep.
TEST_F(BadCheckpoint, PipesAndDeepNestingAreRefused) {
  edit([](json& j) {
    json deep;
    for (int i = 0; i < 300; ++i) deep = json::array({deep});
    j["step"] = deep;
  });
  refused({"manifest.json", "more than 256 lists"});
  put("manifest.json", std::string(1 << 20, '['));
  refused({"manifest.json", "more than 256 lists"});
  for (const std::string& name : {at("manifest.json"), run + "/latest"}) {
    fs::remove(name);
    ASSERT_EQ(::mkfifo(name.c_str(), 0600), 0);
  }
  refused({"latest", "found a special file"});
  expect_input_error([&] { open_checkpoint(step); }, {"manifest.json", "found a special file"});
}

// It would be read into memory.
TEST_F(BadCheckpoint, WhatIsTooLargeDoesNotTravel) {
  put("tokenizer.json", "{}");
  edit([&](json& j) {
    j["files"].push_back({{"name", "tokenizer.json"}, {"bytes", 2}, {"hash", std::string(32, '0')}});
  });
  fs::resize_file(at("tokenizer.json"), std::uintmax_t{1} << 40);  // takes no room on the disk
  expect_input_error([&] { (void)read_travelling(travelling_files(step)); },
                     {"tokenizer.json", "1099511627776", "at most"});
}

TEST_F(BadCheckpoint, ManifestThatIsNoJson) {
  const std::string good = bytes("manifest.json");
  put("manifest.json", good.substr(0, good.size() / 2));
  refused({"manifest.json", "not JSON"});
  put("manifest.json", "");
  refused({"manifest.json", "not JSON"});
  put("manifest.json", "[1]");
  refused({"manifest.json", "an object"});
}

TEST_F(BadCheckpoint, ManifestCutAnywhereIsRefused) {
  const std::string good = bytes("manifest.json");
  for (std::size_t n = 0; n + 2 < good.size(); n += 97) {
    put("manifest.json", good.substr(0, n));
    EXPECT_THROW(read_manifest(step), InputError) << n;
  }
}

TEST_F(BadCheckpoint, UnknownTensor) {
  const auto c = open_checkpoint(run);
  float x = 0;
  EXPECT_FALSE(c->has("model.layers.9.mlp.up_proj.weight"));
  expect_input_error(
      [&] {
        c->read("model.layers.9.mlp.up_proj.weight", {0, 0, 1, 1}, &x);
      },
      {"step_00000007", "model.layers.9.mlp.up_proj.weight"});
}

}  // namespace
}  // namespace upcycle::test
