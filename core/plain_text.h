#pragma once
#include <string>

namespace upcycle {

// The text of an Error (core/check.h) without the place in our sources that it ends in: for a disk that is full.
std::string plain_text(const std::string& error);

}  // namespace upcycle
