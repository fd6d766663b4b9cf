#include "core/stack_text.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

namespace upcycle {
namespace {

struct Mapping {
  std::uint64_t begin = 0, end = 0, offset = 0;  // addresses, and where in the file
  std::string path;
};

std::vector<Mapping> mappings_of(int process) {
  std::vector<Mapping> all;
  std::ifstream maps(fmt::format("/proc/{}/maps", process));
  for (std::string line; std::getline(maps, line);) {
    std::istringstream text(line);
    Mapping m;
    char dash = 0;
    std::string rights, device, inode;
    if (text >> std::hex >> m.begin >> dash >> m.end >> rights >> m.offset >> device >> inode >> std::ws)
      std::getline(text, m.path);
    if (!m.path.empty() && m.path.front() == '/') all.push_back(std::move(m));
  }
  return all;
}

// The functions of an ELF file, read where they lie. Every offset is checked: the file may have been replaced.
class Functions {
 public:
  explicit Functions(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (file >= 0 && fstat(file, &info) == 0 && info.st_size > 0) {
      void* const at = mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (at != MAP_FAILED) bytes_ = {static_cast<const char*>(at), static_cast<std::size_t>(info.st_size)};
    }
    if (file >= 0) close(file);
    read_header();
  }
  ~Functions() {
    if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  }
  Functions(const Functions&) = delete;
  Functions& operator=(const Functions&) = delete;

  // "name+0x1c" of the function that holds this byte of the file; "" where none is known.
  std::string at(std::uint64_t offset) const {
    std::uint64_t address = 0;
    bool loaded = false;
    for (const Elf64_Phdr& p : segments_)
      if (p.p_type == PT_LOAD && offset >= p.p_offset && offset - p.p_offset < p.p_filesz) {
        address = offset - p.p_offset + p.p_vaddr;
        loaded = true;
      }
    if (!loaded) return "";
    for (const Elf64_Sym& s : symbols_) {
      if (ELF64_ST_TYPE(s.st_info) != STT_FUNC || address < s.st_value || address - s.st_value >= s.st_size) continue;
      if (s.st_name >= names_.size()) return "";
      const char* const name = names_.data() + s.st_name;
      const std::string plain(name, strnlen(name, names_.size() - s.st_name));
      int failed = 0;
      char* const demangled = abi::__cxa_demangle(plain.c_str(), nullptr, nullptr, &failed);
      const std::string text = fmt::format("{}+{:#x}", failed == 0 ? demangled : plain.c_str(), address - s.st_value);
      std::free(demangled);
      return text;
    }
    return "";
  }

 private:
  template <class T>
  std::span<const T> part(std::uint64_t offset, std::uint64_t count) const {
    if (offset > bytes_.size() || count > (bytes_.size() - offset) / sizeof(T) || offset % alignof(T) != 0) return {};
    return {reinterpret_cast<const T*>(bytes_.data() + offset), static_cast<std::size_t>(count)};
  }

  void read_header() {
    const auto header = part<Elf64_Ehdr>(0, 1);
    if (header.empty() || std::memcmp(header[0].e_ident, ELFMAG, SELFMAG) != 0 ||
        header[0].e_ident[EI_CLASS] != ELFCLASS64)
      return;
    segments_ = part<Elf64_Phdr>(header[0].e_phoff, header[0].e_phnum);
    const auto sections = part<Elf64_Shdr>(header[0].e_shoff, header[0].e_shnum);
    // A stripped file has the exported functions alone.
    for (const std::uint32_t kind : {SHT_DYNSYM, SHT_SYMTAB})
      for (const Elf64_Shdr& s : sections) {
        if (s.sh_type != kind || s.sh_link >= sections.size()) continue;
        symbols_ = part<Elf64_Sym>(s.sh_offset, s.sh_size / sizeof(Elf64_Sym));
        names_ = part<char>(sections[s.sh_link].sh_offset, sections[s.sh_link].sh_size);
      }
  }

  std::span<const char> bytes_;
  std::span<const Elf64_Phdr> segments_;
  std::span<const Elf64_Sym> symbols_;
  std::span<const char> names_;
};

}  // namespace

std::vector<std::string> stack_text(int process, std::span<const std::uint64_t> addresses) {
  const std::vector<Mapping> mappings = mappings_of(process);
  std::map<std::string, Functions> files;
  std::vector<std::string> lines;
  for (const std::uint64_t address : addresses) {
    std::string line = fmt::format("{:#x}", address);
    for (const Mapping& m : mappings) {
      if (address < m.begin || address >= m.end) continue;
      // A return address may be the first of what follows the call.
      const std::uint64_t offset = address - m.begin + m.offset;
      const std::string function = files.try_emplace(m.path, m.path).first->second.at(offset - 1);
      const std::string file = m.path.substr(m.path.rfind('/') + 1);
      line = function.empty() ? fmt::format("{}+{:#x}", file, offset) : fmt::format("{} in {}", function, file);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace upcycle
