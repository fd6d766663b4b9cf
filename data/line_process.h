#pragma once
#include <string>
#include <vector>

namespace upcycle {

// A program that answers each line on its standard input with one line on its standard output. It gets an end of file
// when this object, or this process, ends. InputError, with what it last wrote to standard error and with `advice`,
// where it can not be started or ends early.
class LineProcess {
 public:
  // words[0] is looked up in PATH.
  LineProcess(const std::vector<std::string>& words, const std::string& advice);
  ~LineProcess();  // waits for its end
  LineProcess(const LineProcess&) = delete;
  LineProcess& operator=(const LineProcess&) = delete;

  void send(const std::string& line);  // without its newline
  std::string receive();
  std::string receive_bytes(std::size_t count);  // that follow a line
  std::string ask(const std::string& line) {
    send(line);
    return receive();
  }

 private:
  void receive_more();
  [[noreturn]] void fail(const std::string& what) const;

  std::string name_, advice_, received_;
  int socket_ = -1;
  int errors_ = -1;  // a file in memory with what it writes to standard error
  int child_ = -1;
};

}  // namespace upcycle
