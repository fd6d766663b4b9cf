#pragma once
#include <optional>

#include "parallel/comm/mesh.h"

namespace upcycle::test {

// The mesh of a layout that is smaller than the job, on its first ranks; null on the others. A collective call of all
// ranks of the job.
std::optional<Mesh> make_part_mesh(const Layout& layout);

}  // namespace upcycle::test
