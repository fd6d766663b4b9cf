#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace upcycle {

// A program to run beside this one.
struct Command {
  std::vector<std::string> words;                  // the first is found on PATH if it has no slash
  std::map<std::string, std::string> environment;  // added to ours; launchers' variables are taken out
  std::string log;     // standard error is appended to this file, and so is standard output if `output` is ""
  std::string output;  // standard output goes there; what was in it is lost
  int dies_by = 9;     // the signal that it gets if this process ends first, however that happens
};
std::string command_line(const std::vector<std::string>& words);  // as one would type it

// The process of a command. It has a process group of its own: Ctrl-C in a terminal does not reach it. Create it in the
// thread that lives as long as it: the kernel takes the end of that thread for ours.
class Child {
 public:
  explicit Child(const Command& command);
  ~Child();  // SIGKILL to its group, if it has not ended
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  std::optional<int> ended();  // its exit code, 128 + signal if one ended it; null while it runs
  void signal(int number) const;

 private:
  int pid_ = -1;
  std::optional<int> code_;
};

}  // namespace upcycle
