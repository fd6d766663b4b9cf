#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <regex>
#include <set>
#include <sstream>

#include "core/check.h"

// What WALK.md quotes stands in the code, and what the documents name is there.
namespace upcycle {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = UPCYCLE_SOURCE_DIR;
const std::set<std::string> kFolders = {"core", "kernels", "data", "parallel", "launch", "tests"};
const std::set<std::string> kEndings = {".h",  ".cpp", ".cu",  ".cuh",   ".inc",   ".sh",
                                        ".py", ".md",  ".svg", ".cmake", ".sbatch"};

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  UPCYCLE_CHECK(in.good(), "can not read {}", file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string one_space(const std::string& text) {
  std::string out;
  std::istringstream in(text);
  for (std::string word; in >> word;) out += (out.empty() ? "" : " ") + word;
  return out;
}

// Every maximal run of these characters.
std::vector<std::string> words_of(const std::string& text, const char* regex) {
  const std::regex word(regex);
  std::vector<std::string> words;
  for (std::sregex_iterator it(text.begin(), text.end(), word), end; it != end; ++it) words.push_back(it->str());
  return words;
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  return files;
}

std::vector<fs::path> source_files() {
  std::vector<fs::path> files;
  for (const std::string& top : kFolders)
    for (const fs::path& file : files_below(kRoot / top)) files.push_back(file);
  return files;
}

// ---- snippets ------------------------------------------------------------------------------------------------------

// A fenced cpp block under a line [`file`](file), `function`: as many pieces of it as a line "..." leaves.
struct Snippet {
  std::string file, function;
  std::vector<std::string> pieces;
  int line;
};

std::vector<Snippet> snippets_of(const std::string& document) {
  static const std::regex source(R"re(^\[`([^`]+)`\]\(([^)]+)\), `([^`]+)`.*)re");
  std::vector<Snippet> snippets;
  std::string before;
  bool inside = false;
  int number = 0;
  for (const std::string& line : lines_of(document)) {
    ++number;
    if (line == "```cpp") {
      std::smatch match;
      UPCYCLE_CHECK(std::regex_match(before, match, source) && match[1] == match[2],
                    "WALK.md:{}: the line above a snippet is not [`file`](file), `function`: {}", number, before);
      snippets.push_back({match[1], match[3], {""}, number});
      inside = true;
    } else if (line == "```") {
      inside = false;
    } else if (inside && one_space(line) == "...") {
      snippets.back().pieces.emplace_back();
    } else if (inside) {
      snippets.back().pieces.back() += line + "\n";
    } else if (!line.empty()) {
      before = line;
    }
  }
  return snippets;
}

// The text of everything that `code` declares or defines as `name` outside of functions, each up to its brace.
std::vector<std::string> definitions(const std::string& code, const std::string& name) {
  const std::regex declared(R"(^[^\s}/#].*\b)" + name + R"(\b.*)");
  std::vector<std::string> found;
  const std::vector<std::string> lines = lines_of(code);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!std::regex_match(lines[i], declared)) continue;
    std::string& text = found.emplace_back();
    for (std::size_t j = i; j < lines.size(); ++j) {
      text += lines[j] + "\n";
      if (lines[j].starts_with("}")) break;
    }
  }
  return found;
}

bool stands_in(const Snippet& snippet, const std::string& code) {
  for (const std::string& definition : definitions(code, snippet.function)) {
    const std::string text = one_space(definition);
    std::size_t at = 0;
    for (const std::string& piece : snippet.pieces) {
      const std::string wanted = one_space(piece);
      if (at != text.npos) at = text.find(wanted, at);
      if (at != text.npos) at += wanted.size();
    }
    if (at != text.npos) return true;
  }
  return false;
}

TEST(Walk, EverySnippetStandsInTheCode) {
  const std::vector<Snippet> snippets = snippets_of(text_of(kRoot / "WALK.md"));
  EXPECT_GE(snippets.size(), 15u);
  for (const Snippet& s : snippets)
    EXPECT_TRUE(stands_in(s, text_of(kRoot / s.file)))
        << "WALK.md:" << s.line << ": not, or no longer, in " << s.function << " of " << s.file;
}

TEST(Walk, AnAlteredSnippetIsFound) {
  for (const Snippet& s : snippets_of(text_of(kRoot / "WALK.md"))) {
    const std::string code = text_of(kRoot / s.file);
    for (std::size_t i = 0; i < s.pieces.size(); ++i) {
      Snippet altered = s;
      altered.pieces[i].insert(altered.pieces[i].size() / 2, "@");
      EXPECT_FALSE(stands_in(altered, code)) << "WALK.md:" << s.line;
    }
    Snippet elsewhere = s;
    elsewhere.function += "_of_no_name";
    EXPECT_FALSE(stands_in(elsewhere, code)) << "WALK.md:" << s.line;
  }
}

// ---- names ---------------------------------------------------------------------------------------------------------

// Functions, types, members and config keys: `a_name`, `a_name()`, `Type::name`, `section.key`.
TEST(Walk, EveryNameStandsInTheCode) {
  std::set<std::string> known;
  for (const fs::path& file : source_files())
    if (const std::string ending = file.extension().string(); kEndings.contains(ending) && ending != ".md")
      for (const std::string& word : words_of(text_of(file), "[A-Za-z_]\\w*")) known.insert(word);
  static const std::regex name(R"(`([A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)*)(?:\(\))?`)");
  const std::string walk = text_of(kRoot / "WALK.md");
  int names = 0;
  for (std::sregex_iterator it(walk.begin(), walk.end(), name), end; it != end; ++it, ++names) {
    const std::string whole = (*it)[1];
    if (kEndings.contains(fs::path(whole).extension().string())) continue;  // a file
    for (const std::string& word : words_of(whole, "\\w+"))
      EXPECT_TRUE(known.contains(word)) << "WALK.md: no " << word << " in the code: " << it->str();
  }
  EXPECT_GE(names, 30);
}

// A path from the root or from the document's folder, or the end of a file's path ("router.cpp"). What begins with
// none of our folders, or has none of our endings, is a user's file.
std::optional<std::string> missing_file(const fs::path& folder, std::string word) {
  static const std::vector<fs::path> files = source_files();
  while (!word.empty() && std::string(".-").find(word.back()) != word.npos) word.pop_back();
  if (word.starts_with("./")) word.erase(0, 2);
  if (word.empty() || word.find_first_of("*{}$<>") != word.npos) return std::nullopt;
  const fs::path path = word, first = *path.begin();
  const bool ours =
      word.find('/') == word.npos
          ? kEndings.contains(path.extension().string())
          : kFolders.contains(first.string()) || (folder != kRoot && path.is_relative() && fs::exists(folder / first));
  if (!ours || fs::exists(kRoot / path) || fs::exists(folder / path)) return std::nullopt;
  const auto ends_so = [&](const fs::path& file) { return file.generic_string().ends_with("/" + word); };
  return std::ranges::any_of(files, ends_so) ? std::nullopt : std::optional(word);
}

TEST(Documents, EveryFileThatTheyNameIsThere) {
  std::vector<fs::path> documents = {kRoot / "README.md", kRoot / "WALK.md"};
  for (const fs::path& file : source_files())
    if (file.filename() == "README.md") documents.push_back(file);
  EXPECT_GE(documents.size(), 8u);
  for (const fs::path& document : documents)
    for (const std::string& word : words_of(text_of(document), R"([\w./*{}$<>-]+)"))
      if (const auto missing = missing_file(document.parent_path(), word))
        ADD_FAILURE() << fs::relative(document, kRoot).string() << ": found no " << *missing;
}

}  // namespace
}  // namespace upcycle
