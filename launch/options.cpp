#include "launch/options.h"

#include <CLI/CLI.hpp>  // five seconds of compile time: included here alone
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <type_traits>

#include "core/config/parse.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

// CLI11 converts with strtoll and strtold, which clamp values out of range and accept "nan": both are refused here.
template <class T>
std::string check_number(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  if (whole && std::isfinite(static_cast<double>(value))) return "";
  return fmt::format("found {}, expected {}", quote_text(text),
                     std::is_integral_v<T> ? "an integer of at most 64 bits" : "a finite number");
}

// Set while a command is described: parse() fills it in instead of parsing.
thread_local CommandInfo* described = nullptr;

}  // namespace

struct Options::Parser {
  std::string command;
  CLI::App app;
  std::vector<CommandInfo::Example> examples;
  std::vector<std::string> long_names{"--help"};  // every "--name"
  std::vector<std::string> valued_names;          // those of them that take a value
  std::vector<std::string>* overrides = nullptr;

  Parser(const std::string& command_, const std::string& summary)
      : command(command_), app(summary, "upcycle " + command_) {}

  [[noreturn]] void fail(const std::string& message) const {
    input_error("command line: {}; see `upcycle help {}`", message, command);
  }

  template <class T>
  void add(const std::string& name, T& value, const std::string& meaning, Need need) {
    CLI::Option* option = app.add_option(name, value, meaning);
    if constexpr (!std::is_same_v<T, std::vector<std::string>>) option->capture_default_str();
    if constexpr (std::is_arithmetic_v<T>) option->check(check_number<T>);
    if (need == Need::Required) option->required();
    if (!name.starts_with("-")) return;
    option->take_last();
    for (const std::string& long_name : option->get_lnames()) {
      long_names.push_back("--" + long_name);
      valued_names.push_back("--" + long_name);
    }
  }

  std::string footer() const {
    std::string text;
    for (const auto& [line, meaning] : examples)
      text += fmt::format("{}  {}\n      {}\n", text.empty() ? "Examples:\n" : "", line, meaning);
    if (overrides != nullptr)
      text += fmt::format("{}Any config key: --KEY=VALUE, e.g. --train.lr=1e-4; `upcycle help config` lists them.",
                          text.empty() ? "" : "\n");
    return text;
  }

  CommandInfo info() const {
    CommandInfo about{command, app.get_description(), {}, {}, overrides != nullptr, examples};
    for (const CLI::Option* o : app.get_options()) {
      const std::string type = o->get_type_size() == 0 ? "" : o->get_type_name();
      CommandInfo::Option option{o->get_name(), type, o->get_default_str(), o->get_description(), o->get_required()};
      (o->get_positional() ? about.positionals : about.options).push_back(option);
    }
    return about;
  }

  // Extracts the overrides from `arguments`, and suggests the nearest name for an unknown option, which CLI11 does not.
  std::vector<std::string> without_overrides(const std::vector<std::string>& arguments) const {
    std::vector<std::string> rest;
    bool options_end = false;
    for (const std::string& argument : arguments) {
      options_end = options_end || argument == "--";
      const std::size_t equals = argument.find('=');
      const std::string name = argument.substr(0, equals);
      if (options_end || !argument.starts_with("--")) {
        rest.push_back(argument);
      } else if (std::find(long_names.begin(), long_names.end(), name) != long_names.end()) {
        // CLI11 takes "--name=" for "--name" and would eat the argument that follows as its value.
        if (equals + 1 == argument.size() &&
            std::find(valued_names.begin(), valued_names.end(), name) != valued_names.end())
          fail("option " + name + ": found an empty value, expected one; leave the option out for its default");
        rest.push_back(argument);
      } else if (overrides != nullptr && is_override(argument)) {
        overrides->push_back(argument);
      } else {
        std::string message = "unknown option " + quote_text(name);
        const std::string near = nearest(name, long_names);
        if (!near.empty()) message += ", did you mean " + quote_text(near) + "?";
        if (overrides != nullptr && equals == std::string::npos) message += " (a config key is set by --KEY=VALUE)";
        fail(message);
      }
    }
    return rest;
  }
};

Options::Options(const std::string& command, const std::string& summary)
    : parser_(std::make_unique<Parser>(command, summary)) {
  parser_->app.set_help_flag("-h,--help", "print this and exit");
}
Options::~Options() = default;

void Options::flag(const std::string& name, bool& value, const std::string& meaning) {
  for (const std::string& long_name : parser_->app.add_flag(name, value, meaning)->get_lnames())
    parser_->long_names.push_back("--" + long_name);
}
void Options::option(const std::string& name, std::string& value, const std::string& meaning, Need need) {
  parser_->add(name, value, meaning, need);
}
void Options::option(const std::string& name, std::int64_t& value, const std::string& meaning, Need need) {
  parser_->add(name, value, meaning, need);
}
void Options::option(const std::string& name, double& value, const std::string& meaning, Need need) {
  parser_->add(name, value, meaning, need);
}
void Options::positional(const std::string& name, std::string& value, const std::string& meaning, Need need) {
  parser_->add(name, value, meaning, need);
}
void Options::positionals(const std::string& name, std::vector<std::string>& values, const std::string& meaning,
                          Need need) {
  parser_->add(name, values, meaning, need);
}

void Options::example(const std::string& command, const std::string& meaning) {
  parser_->examples.push_back({command, meaning});
}

void Options::config_overrides(std::vector<std::string>& overrides) { parser_->overrides = &overrides; }

bool Options::parse(const std::vector<std::string>& arguments) {
  if (described != nullptr) {
    *described = parser_->info();
    return false;
  }
  parser_->app.footer(parser_->footer());
  std::vector<std::string> rest = parser_->without_overrides(arguments);
  std::reverse(rest.begin(), rest.end());  // CLI11 reads a vector from its end
  try {
    parser_->app.parse(rest);
  } catch (const CLI::CallForHelp&) {
    std::fputs(parser_->app.help().c_str(), stdout);
    return false;
  } catch (const CLI::ParseError& e) {
    std::string message = e.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    parser_->fail(message);
  }
  return true;
}

CommandInfo describe_command(int (*command)(const std::vector<std::string>&),
                             const std::vector<std::string>& arguments) {
  CommandInfo info;
  described = &info;
  (void)command(arguments);
  described = nullptr;
  return info;
}

bool Options::given(const std::string& name) const { return parser_->app.count(name) > 0; }

std::size_t parse_bytes(const std::string& option, const std::string& text) {
  constexpr double kMiB = 1 << 20, kGiB = 1 << 30;
  static const std::vector<std::pair<std::string, double>> units = {
      {"", 1}, {"B", 1}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"MiB", kMiB}, {"GiB", kGiB}, {"TiB", kGiB * 1024}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit = error == std::errc{} ? text.substr(static_cast<std::size_t>(end - text.data())) : "?";
  unit.erase(0, unit.find_first_not_of(' ') == unit.npos ? unit.size() : unit.find_first_not_of(' '));
  for (const auto& [name, factor] : units) {
    const double bytes = number * factor;
    if (unit == name && bytes >= 1 && bytes < 0x1p63) return static_cast<std::size_t>(bytes);
  }
  input_error("command line: {}: found {}, expected a size such as 80GiB, 64GB or a number of bytes", option,
              quote_text(text));
}

}  // namespace upcycle
