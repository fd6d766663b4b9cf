#pragma once
#include <string>

namespace upcycle {

std::string man_page();  // upcycle(1), for man, made from the tables of commands and config keys

}  // namespace upcycle
