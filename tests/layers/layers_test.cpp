#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "core/check.h"

// Arrows point downwards only: every #include of the source tree is checked against the table of layers below.
namespace upcycle {
namespace {

namespace fs = std::filesystem;

// Folder -> folders it builds on; what those build on is allowed too. A file belongs to the longest folder that holds
// it. Only the code that creates a backend, above all others, builds on kernels/cpu or kernels/cuda: the rest of the
// program knows only kernels/ops.h. Tests may include anything, and nothing includes them.
const std::map<std::string, std::vector<std::string>> kLayers = {
    {"core", {}},
    {"kernels", {"core"}},
    {"kernels/cpu", {"kernels"}},
    {"kernels/cuda", {"kernels"}},
    {"kernels/dry", {"kernels"}},
    {"data", {"core"}},
    {"parallel/comm", {"core"}},
    {"parallel/model", {"kernels", "parallel/comm"}},
    {"parallel/models", {"parallel/model", "data"}},
    {"parallel/checkpoint", {"parallel/models"}},
    {"parallel/train", {"parallel/checkpoint"}},
    {"parallel/upcycle", {"parallel/train"}},
    {"parallel/plan", {"parallel/upcycle", "kernels/dry"}},
    {"parallel/serve", {"parallel/checkpoint", "kernels/dry"}},
    {"launch", {"parallel/plan", "parallel/serve", "kernels/cpu"}},
    {"launch/cuda", {"launch", "kernels/cuda"}},
};

std::string layer_of(fs::path file) {
  for (fs::path folder = file.parent_path(); !folder.empty(); folder = folder.parent_path())
    if (kLayers.contains(folder.generic_string())) return folder.generic_string();
  return "";
}

void add_below(const std::string& layer, std::set<std::string>& reach) {
  if (!reach.insert(layer).second) return;
  for (const std::string& below : kLayers.at(layer)) add_below(below, reach);
}

struct Scan {
  std::set<std::string> files;
  std::vector<std::string> violations;  // "file:line: reason", sorted
};

void scan_file(const fs::path& root, const std::string& file, Scan& scan) {
  static const std::regex include(R"re(^\s*#\s*include\s*(["<])([^">]+)[">].*)re");
  const std::string layer = layer_of(file);
  std::ifstream in(root / file);
  UPCYCLE_CHECK(in.good(), "can not read {}", (root / file).string());
  if (layer.empty()) {
    scan.violations.push_back(fmt::format("{}: its folder is no layer of the table in layers_test.cpp", file));
    return;
  }
  std::set<std::string> allowed;
  add_below(layer, allowed);
  std::string text;
  for (int line = 1; std::getline(in, text); ++line) {
    std::smatch match;
    if (!std::regex_match(text, match, include)) continue;
    const std::string target = match[2];
    const auto complain = [&](const std::string& reason) {
      scan.violations.push_back(fmt::format("{}:{}: includes {}, {}", file, line, target, reason));
    };
    if (!fs::exists(root / target)) {
      if (match[1] == "\"") complain("which is no path from the root of the source tree");
      continue;
    }
    const std::string to = layer_of(target);
    if (to.empty())
      complain("which is in no layer");
    else if (!allowed.contains(to))
      complain(fmt::format("but {} does not build on {}", layer, to));
  }
}

Scan scan_tree(const fs::path& root) {
  static const std::set<std::string> kCode = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh", ".inc"};
  Scan scan;
  for (const char* top : {"core", "kernels", "data", "parallel", "launch"}) {
    if (!fs::exists(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top))
      if (entry.is_regular_file() && kCode.contains(entry.path().extension().string()))
        scan.files.insert(fs::relative(entry.path(), root).generic_string());
  }
  for (const std::string& file : scan.files) scan_file(root, file, scan);
  return scan;
}

TEST(Layers, NoUpwardInclude) {
  const Scan scan = scan_tree(UPCYCLE_SOURCE_DIR);
  // A scan of the wrong folder would find nothing wrong.
  EXPECT_TRUE(scan.files.contains("core/tensor.h") && scan.files.contains("kernels/cpu/cpu_ops.cpp"));
  for (const std::string& violation : scan.violations) ADD_FAILURE() << violation;
}

// Sources without a header of their name: the file that names them, which is their class's or says why.
const std::map<std::string, std::string> kNamedBy = {
    {"data/hdf5_read.cpp", "data/hdf5.h"},
    {"data/hdf5_write.cpp", "data/hdf5.h"},
    {"launch/cuda/backend.cpp", "launch/backend.h"},
    {"launch/cuda/gpu_facts.cpp", "launch/gpu_facts.h"},
    {"launch/main.cpp", "launch/README.md"},
    {"launch/study/runs_csv.cpp", "launch/study/report.h"},
    {"launch/study/read_study.cpp", "launch/study/study.h"},
    {"launch/study/check_study.cpp", "launch/study/study_plan.h"},
    {"launch/study/check_runs.cpp", "launch/study/study_plan.h"},
    {"launch/charts/page_script.cpp", "launch/charts/page.h"},
    {"launch/charts/page_style.cpp", "launch/charts/page.h"},
};
// Folders whose files share one header: what it declares for each.
struct Together {
  std::string header, declaration;
};
const std::map<std::string, Together> kTogether = {
    {"launch", {"launch/commands.h", "run_{}("}},
    {"launch/study", {"launch/study/report.h", "{}("}},
    {"launch/study/page", {"launch/study/page/sections.h", "{}_section("}},
    {"parallel/models/families", {"parallel/models/family.h", "families/"}},
};

TEST(Layers, EverySourceHasItsHeader) {
  const fs::path root = UPCYCLE_SOURCE_DIR;
  const auto text_of = [&](const std::string& file) {
    std::ifstream in(root / file);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  for (const std::string& file : scan_tree(root).files) {
    const fs::path path = file;
    // kernels/ has one header of all ops, ops.h.
    if (path.extension() != ".cpp" || file.starts_with("kernels/")) continue;
    if (fs::exists(root / fs::path(path).replace_extension(".h"))) {
      EXPECT_FALSE(kNamedBy.contains(file)) << file << " has a header: it needs none in the list";
      continue;
    }
    const auto named = kNamedBy.find(file);
    if (named != kNamedBy.end()) {
      EXPECT_NE(text_of(named->second).find(path.filename().string()), std::string::npos)
          << named->second << " does not name " << file;
      continue;
    }
    const auto together = kTogether.find(path.parent_path().generic_string());
    if (together != kTogether.end()) {
      const auto& [header, declaration] = together->second;
      const std::string declared = fmt::format(fmt::runtime(declaration), path.stem().string());
      if (text_of(header).find(declared) != std::string::npos) continue;
    }
    ADD_FAILURE() << file
                  << " has no header of its name: give it one, or name it in its class's header and in kNamedBy";
  }
}

// ---- the scan itself, on a planted tree ----------------------------------------------------------------------------

struct PlantedTree : testing::Test {
  fs::path root = fs::temp_directory_path() / fmt::format("upcycle_layers_{}", static_cast<const void*>(this));
  PlantedTree() {
    write("core/a.h", "#include <vector>\n");
    write("core/config/c.h", "#include \"core/a.h\"\n");
    write("kernels/ops.h", "#include \"core/config/c.h\"\n");
    write("kernels/cpu/x.h", "#include \"kernels/ops.h\"\n");
    write("kernels/cuda/x.h", "#include \"kernels/ops.h\"\n");
    write("kernels/cpu/x.cpp", "#include \"kernels/cpu/x.h\"\n#include <dnnl.h>\n");
    write("data/d.h", "#include \"core/a.h\"\n");
    write("parallel/comm/m.h", "#include \"core/a.h\"\n");
    write("parallel/model/m.h", "#include \"kernels/ops.h\"\n#include \"parallel/comm/m.h\"\n");
    write("parallel/models/f.h", "#include \"parallel/model/m.h\"\n#include \"data/d.h\"\n");
    write("parallel/checkpoint/c.h",
          "#include \"parallel/models/f.h\"\n#include \"data/d.h\"\n#include \"core/a.h\"\n");
    write("parallel/train/t.h", "#include \"parallel/checkpoint/c.h\"\n#include \"kernels/ops.h\"\n");
    write("parallel/upcycle/u.h", "#include \"parallel/train/t.h\"\n");
    write("parallel/serve/s.h", "#include \"parallel/checkpoint/c.h\"\n");
    write("launch/l.h", "#include \"parallel/upcycle/u.h\"\n#include \"parallel/serve/s.h\"\n");
    write("launch/bench/b.cpp", "#include \"launch/l.h\"\n#include \"kernels/ops.h\"\n");
    write("tests/t.h", "#include \"kernels/cpu/x.h\"\n");
  }
  ~PlantedTree() override { fs::remove_all(root); }
  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
};

TEST_F(PlantedTree, DownwardIncludesPass) {
  const Scan scan = scan_tree(root);
  EXPECT_EQ(scan.files.size(), 16u);
  EXPECT_EQ(scan.violations, std::vector<std::string>{});
}

TEST_F(PlantedTree, EveryForbiddenArrowIsFound) {
  const std::pair<const char*, const char*> arrows[] = {
      {"core", "kernels/ops.h"},
      {"core/config", "data/d.h"},
      {"kernels", "kernels/cpu/x.h"},
      {"kernels", "data/d.h"},
      {"kernels", "parallel/comm/m.h"},
      {"kernels/cuda", "kernels/cpu/x.h"},
      {"data", "kernels/ops.h"},
      {"data", "parallel/comm/m.h"},
      {"parallel/comm", "kernels/ops.h"},
      {"parallel/comm", "data/d.h"},
      {"parallel/comm", "parallel/model/m.h"},
      {"parallel/model", "data/d.h"},
      {"parallel/model", "kernels/cpu/x.h"},
      {"parallel/model", "parallel/models/f.h"},
      {"parallel/models", "parallel/checkpoint/c.h"},
      {"parallel/checkpoint", "parallel/train/t.h"},
      {"parallel/checkpoint", "parallel/serve/s.h"},
      {"parallel/train", "parallel/upcycle/u.h"},
      {"parallel/train", "parallel/serve/s.h"},
      {"parallel/upcycle", "parallel/serve/s.h"},
      {"parallel/serve", "parallel/train/t.h"},
      {"parallel/serve", "parallel/upcycle/u.h"},
      {"parallel/upcycle", "launch/l.h"},
      {"launch", "kernels/cuda/x.h"},
      {"launch", "tests/t.h"},
      {"core", "tests/t.h"},
  };
  for (const auto& [folder, target] : arrows) {
    const std::string file = std::string(folder) + "/planted.h";
    for (const char* form : {"#include \"{}\"\n", "  #  include <{}>  // why\n"}) {
      write(file, "#pragma once\n" + fmt::format(fmt::runtime(form), target));
      const Scan scan = scan_tree(root);
      ASSERT_EQ(scan.violations.size(), 1u) << folder << " -> " << target;
      EXPECT_EQ(scan.violations[0].find(file + ":2: includes " + target), 0u) << scan.violations[0];
    }
    fs::remove(root / file);
  }
}

TEST_F(PlantedTree, FilesOutsideTheTableAndRelativePathsAreFound) {
  write("parallel/stray.cpp", "#include \"core/a.h\"\n");
  write("core/b.cpp", "#include \"a.h\"\n// #include \"launch/l.h\"\n");
  EXPECT_EQ(scan_tree(root).violations,
            (std::vector<std::string>{"core/b.cpp:1: includes a.h, which is no path from the root of the source tree",
                                      "parallel/stray.cpp: its folder is no layer of the table in layers_test.cpp"}));
}

}  // namespace
}  // namespace upcycle
