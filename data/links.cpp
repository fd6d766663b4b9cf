#include "data/links.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {

void refuse_link_outside(const std::string& folder, const std::string& name) {
  namespace fs = std::filesystem;
  const std::string path = folder + "/" + name;
  std::error_code code;
  if (!fs::is_symlink(fs::symlink_status(path, code))) return;
  const fs::path root = fs::canonical(folder, code), target = fs::canonical(path, code);
  if (code) input_error("{}: cannot follow the link: {}", path, code.message());
  const auto lies_in = [&](const fs::path& outer) {
    return std::mismatch(outer.begin(), outer.end(), target.begin(), target.end()).first == outer.end();
  };
  if (lies_in(root)) return;
  for (fs::path at = root; at.has_relative_path(); at = at.parent_path())
    if (at.filename() == "snapshots" && lies_in(at.parent_path() / "blobs")) return;
  input_error(
      "{}: found a link to {}, outside of the folder, whose contents would be copied; put the file itself there", path,
      quote_text(target.string()));
}

}  // namespace upcycle
