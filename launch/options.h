#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace upcycle {

// The options of one subcommand, declared one by one and then parsed. Values are written to the given references, which
// keep their value (the default, shown by help) if the user gives none. Names: "--output" or "-o,--output".
//
//   Options options("tokenize", "Text to token sets.");
//   options.option("--output", output, "PREFIX of the set", Need::Required);
//   options.positionals("files", files, "text files");
//   if (!options.parse(arguments)) return 0;  // help was printed
enum class Need { Optional, Required };

// One command's table, for help, the manual page and completion.
struct CommandInfo {
  struct Option {
    std::string name;     // "--output", "-o,--output"; of a positional "model"
    std::string value;    // what follows it: "TEXT", "INT"; "" for a flag
    std::string initial;  // its default, "" for none
    std::string meaning;
    bool required = false;
  };
  struct Example {
    std::string command, meaning;
  };
  std::string name, summary;
  std::vector<Option> positionals, options;
  bool config_keys = false;  // --KEY=VALUE
  std::vector<Example> examples;
};

class Options {
 public:
  Options(const std::string& command, const std::string& summary);
  ~Options();
  Options(const Options&) = delete;

  void flag(const std::string& name, bool& value, const std::string& meaning);
  void option(const std::string& name, std::string& value, const std::string& meaning, Need need = Need::Optional);
  void option(const std::string& name, std::int64_t& value, const std::string& meaning, Need need = Need::Optional);
  void option(const std::string& name, double& value, const std::string& meaning, Need need = Need::Optional);
  void positional(const std::string& name, std::string& value, const std::string& meaning, Need need = Need::Required);
  void positionals(const std::string& name, std::vector<std::string>& values, const std::string& meaning,
                   Need need = Need::Required);  // declare last; takes all remaining arguments

  // A whole command line, which help shows with what it does.
  void example(const std::string& command, const std::string& meaning);

  // Accepts "--a.b=value" for parse_config and collects them, in order. Without this an unknown option is an error.
  void config_overrides(std::vector<std::string>& overrides);

  // False if --help was given and printed. Throws InputError naming the option, found and expected.
  bool parse(const std::vector<std::string>& arguments);

  bool given(const std::string& name) const;  // whether the parsed arguments had it

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

// The table of a command, a function that begins by declaring its options and parsing `arguments`: nothing else of it
// runs.
CommandInfo describe_command(int (*command)(const std::vector<std::string>&),
                             const std::vector<std::string>& arguments = {});

// A size in bytes, "80GiB", "64 GB" or "1073741824"; else InputError naming the option.
std::size_t parse_bytes(const std::string& option, const std::string& text);

}  // namespace upcycle
