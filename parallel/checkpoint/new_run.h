#pragma once
#include <functional>
#include <string>

#include "parallel/checkpoint/manifest.h"

namespace upcycle {

// InputError where OUT is neither absent nor an empty folder (remains of a killed attempt are allowed).
void require_free(const std::string& out);

// Makes OUT, a run folder whose one step `write` fills: it writes the files into the folder it is given and says what
// they are. Locked meanwhile and published as a run publishes its steps; on failure nothing of it remains.
void make_run(const std::string& out, std::int64_t step,
              const std::function<Manifest(const std::string& folder)>& write);

}  // namespace upcycle
