#pragma once
#include <map>
#include <string>
#include <vector>

namespace upcycle {

struct Outcome {
  int exit_code = -1;  // 128 + signal if one ended it
  std::string out, err;
};

// A program that runs beside the test. A test that ends without finish() kills it.
class Started {
 public:
  Started(const std::vector<std::string>& words, const std::map<std::string, std::string>& environment = {},
          const std::string& out_file = "");
  ~Started();
  Started(const Started&) = delete;
  void kill() const;       // SIGKILL: no handler, no destructor runs
  void terminate() const;  // SIGTERM
  void signal(int number) const;
  // Waits until the program has installed a handler of this signal, at most half a minute; returns whether it has.
  bool handles(int number) const;
  Outcome finish();  // waits for its end

 private:
  int child_ = -1;
  std::string out_path_, err_path_;
  bool keep_out_ = false;
};

// Runs a program to its end, with `environment` added to this process's own; launchers' variables are taken out, so
// that a test under mpirun starts a single rank. `out_file`: where standard output goes instead of into the outcome.
Outcome run_program(const std::vector<std::string>& words, const std::map<std::string, std::string>& environment = {},
                    const std::string& out_file = "");

// The binary under test with these arguments.
Outcome run_upcycle(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {});

// An error that a user can correct: exit code 2, nothing on standard output, and the one line "upcycle: ..." that is
// returned.
std::string one_line_error(const Outcome& outcome);

}  // namespace upcycle
