#pragma once
#include <string>
#include <vector>

namespace upcycle {

// A program that answers each line on its standard input with one line on its standard output. It gets an end of file
// when this object, or this process, ends; what it writes to standard error is dropped.
class LineProcess {
 public:
  // words[0] is looked up in PATH. InputError where it can not be started, with `advice`.
  LineProcess(const std::vector<std::string>& words, const std::string& advice);
  ~LineProcess();  // waits for its end
  LineProcess(const LineProcess&) = delete;
  LineProcess& operator=(const LineProcess&) = delete;

  void send(const std::string& line);  // without its newline
  std::string receive();               // Error where the program has ended
  std::string ask(const std::string& line) {
    send(line);
    return receive();
  }

 private:
  std::string name_, received_;
  int socket_ = -1;
  int child_ = -1;
};

}  // namespace upcycle
