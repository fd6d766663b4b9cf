#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "core/check.h"
#include "data/token_set.h"
#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// x.idx and x.bin in a folder that goes with the process.
struct Files {
  std::string folder = make();
  std::string prefix = folder + "/x";
  static std::string make() {
    std::string name = (std::filesystem::temp_directory_path() / "upcycle_fuzz.XXXXXX").string();
    UPCYCLE_CHECK(mkdtemp(name.data()) != nullptr, "no folder {}", name);
    return name;
  }
  ~Files() { std::filesystem::remove_all(folder); }
  void write(const char* ending, std::string_view bytes) const {
    std::ofstream(prefix + ending, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
};

// A byte: how long the .bin is. Then the .bin, then the .idx.
void one(std::string_view input) {
  static const Files files;
  if (input.empty()) return;
  const std::string_view rest = input.substr(1);
  const std::size_t bin = std::min<std::size_t>(static_cast<unsigned char>(input[0]), rest.size());
  files.write(".bin", rest.substr(0, bin));
  files.write(".idx", rest.substr(bin));
  fuzz::may_refuse([&] {
    const TokenSet set = TokenSet::open(files.prefix, 300);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min<std::int64_t>(set.tokens(), 4096)));
    const auto n = static_cast<std::int64_t>(ids.size());
    set.read(0, n, ids.data());
    set.read(set.tokens() - n, n, ids.data());
    set.check_ids(4096);
    const std::vector<std::int64_t> starts = set.document_starts();
    if (starts.front() < 0 || starts.back() > set.tokens()) throw std::logic_error("a document outside of the tokens");
  });
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(token_index, upcycle::one)
