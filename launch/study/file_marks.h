#pragma once
#include <map>
#include <string>

namespace upcycle {

// Marks by which files are known again: size and a hash of their whole or, of large ones, of parts from begin to end.
// Quick rather than safe: it finds a text that was made anew, not one that somebody hides. "" where there is none.
class FileMarks {
 public:
  const std::string& of_file(const std::string& path);
  // Of all files of a model's folder but hidden ones; of a run's, of its newest checkpoint.
  const std::string& of_model(const std::string& folder);

 private:
  std::map<std::string, std::string> known_;  // each is read once
};

}  // namespace upcycle
