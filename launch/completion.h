#pragma once
#include <string>

namespace upcycle {

// A script for bash that completes commands, their options, config keys and the names that a key may have; made from
// the tables of commands and config keys.
std::string bash_completion();

}  // namespace upcycle
