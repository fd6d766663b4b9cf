#pragma once
#include <string>

namespace upcycle {

// RUN/latest names the run's newest step. Its first line is the step folder's name; the second, which a file written by
// hand or by an earlier version lacks, is a hash of the first, so that a changed byte is not taken for another step's
// name.
struct Latest {
  std::string step;      // "": there is no such file, or it is damaged
  bool checked = false;  // has the second line
  std::string damage;    // what is wrong with it; "": nothing
};

Latest look_at_latest(const std::string& run_dir);
// The same for the mark RUN/publishing, or another file of this form.
Latest look_at_named_step(const std::string& path);
Latest parse_named_step(const std::string& text, const std::string& path);  // of the file's text; `path` for messages

// The step folder that RUN/latest names, "" where there is none. InputError where it is not such a name, or not the one
// that was written.
std::string read_latest(const std::string& run_dir);
void write_latest(const std::string& run_dir, const std::string& step);  // atomically

// What these files hold, both lines.
std::string named_step_text(const std::string& step);

}  // namespace upcycle
