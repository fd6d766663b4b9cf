#pragma once
#include <span>

#include "launch/commands.h"
#include "launch/options.h"

namespace upcycle {

enum class Ranks { One, Many };

struct Command {
  const char* name;
  int (*run)(const Arguments&);
  Ranks ranks;  // One: several ranks are refused, since each would write the same files
  const char* summary;
};

std::span<const Command> all_commands();

// The tables of all of them, and of bench's that have their own.
std::vector<CommandInfo> describe_all();

}  // namespace upcycle
