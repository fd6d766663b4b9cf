#include "launch/completion.h"

#include <fmt/core.h>

#include "core/config/fields.h"
#include "launch/command_table.h"

namespace upcycle {
namespace {

// "--output=" where a value follows, "--json" where none does.
std::string words_of(const CommandInfo& c) {
  std::string words;
  for (const CommandInfo::Option& o : c.options) {
    const std::string long_name = o.name.substr(o.name.rfind(',') + 1);
    words += (words.empty() ? "" : " ") + long_name + (o.value.empty() ? "" : "=");
  }
  return words;
}

std::string keys() {
  std::string words;
  for (const Field& f : fields()) {
    if (f.names.empty()) words += " --" + f.key + "=";
    for (const std::string& name : f.names)
      if (!name.empty()) words += " --" + f.key + "=" + name;
  }
  return words.substr(1);
}

// The word under the cursor is taken from the line: bash cuts words at "=".
constexpr const char* kFunction = R"(_upcycle() {
  local line=${COMP_LINE:0:COMP_POINT} words current candidates= name
  read -ra words <<<"$line"
  current=${words[-1]}
  [[ $line == *[[:space:]] ]] && { current=; words+=(""); }
  COMPREPLY=()
  if ((${#words[@]} <= 2)); then
    candidates=$_upcycle_commands
  elif [[ $current == -* ]]; then
    name=${words[1]}
    [[ $name == bench && -n ${_upcycle_options["bench ${words[2]}"]:-} ]] && name="bench ${words[2]}"
    candidates=${_upcycle_options[$name]:-}
    [[ -n ${_upcycle_takes_keys[$name]:-} ]] && candidates+=" $_upcycle_keys"
  elif [[ ${words[1]} == help ]]; then
    candidates="$_upcycle_commands config study man completion"
  else
    return  # a file
  fi
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
  [[ $current == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o default -F _upcycle upcycle
)";

}  // namespace

std::string bash_completion() {
  std::string script = "_upcycle_commands='help";
  for (const Command& c : all_commands()) script += fmt::format(" {}", c.name);
  script += "'\ndeclare -A _upcycle_options _upcycle_takes_keys\n";
  for (const CommandInfo& c : describe_all()) {
    script += fmt::format("_upcycle_options['{}']='{}'\n", c.name, words_of(c));
    if (c.config_keys) script += fmt::format("_upcycle_takes_keys['{}']=yes\n", c.name);
  }
  return script + fmt::format("_upcycle_keys='{}'\n", keys()) + kFunction;
}

}  // namespace upcycle
