#pragma once
#include <vector>

#include "launch/study/grid.h"

namespace upcycle {

// Bytes of the checkpoints that these runs put on disk, at most at a time: of a finished run the last one is kept, of
// one that is trained as many as its config says.
double bytes_to_write(const Study& study, const std::vector<const StudyRun*>& runs);

// InputError where the disk of study.output has not that much left.
void check_disk(const Study& study, double bytes);

}  // namespace upcycle
