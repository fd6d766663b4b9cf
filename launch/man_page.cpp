#include "launch/man_page.h"

#include <fmt/core.h>

#include "core/config/describe.h"
#include "launch/command_table.h"

// groff_man(7): text that is not a request of its own must neither begin with a dot or a quote nor have backslashes or
// hyphens that man would change.
namespace upcycle {
namespace {

std::string plain(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((i == 0 || text[i - 1] == '\n') && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  return out;
}

void add(std::string& page, const CommandInfo::Option& o) {
  std::string tag = o.name + (o.value.empty() ? "" : " " + o.value);
  page += fmt::format(".TP\n.B {}\n{}{}{}\n", plain(tag), plain(o.meaning), o.required ? " (required)" : "",
                      o.initial.empty() || o.value.empty() ? "" : plain(" [" + o.initial + "]"));
}

}  // namespace

std::string man_page() {
  std::string page = fmt::format(
      ".TH UPCYCLE 1 \"\" \"upcycle {}\"\n.SH NAME\nupcycle \\- train Mixtures\\-of\\-Experts "
      "made of dense transformers\n.SH SYNOPSIS\n.B upcycle\nCOMMAND [ARGUMENTS] "
      "[\\-\\-CONFIG.KEY=VALUE ...]\n.SH COMMANDS\n",
      version);
  for (const CommandInfo& c : describe_all()) {
    page += fmt::format(".SS upcycle {}\n{}\n", plain(c.name), plain(c.summary));
    for (const CommandInfo::Option& o : c.positionals) add(page, o);
    for (const CommandInfo::Option& o : c.options) add(page, o);
    if (c.config_keys) page += ".TP\n.B \\-\\-KEY=VALUE\nany key of the config, below\n";
    for (const auto& [line, meaning] : c.examples)
      page += fmt::format(".PP\n{}:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi\n", plain(meaning), plain(line));
  }
  page += ".SH CONFIG\n.nf\n" + plain(config_help()) + ".fi\n";
  page += ".SH EXIT STATUS\n0: done; 1: an error; 2: bad input, said in one line; 3: stopped by a signal, and saved.\n";
  return page;
}

}  // namespace upcycle
