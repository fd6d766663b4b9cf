#pragma once
#include <string>

namespace upcycle {

std::string this_machine();  // "2 cores of Intel(R) Xeon(R) CPU @ 2.80GHz"

}  // namespace upcycle
