#pragma once
#include <string>

namespace upcycle {

std::string mpi_library();  // "Open MPI v4.1.4"; while a session runs

}  // namespace upcycle
