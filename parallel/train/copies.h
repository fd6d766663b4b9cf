#pragma once
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

// What the ranks of a group hold copies of, compared by hashes.
namespace upcycle {

struct Copy {
  std::string name;
  std::string digest;  // digest_of, findings.h
};

struct DifferentCopy {
  std::int64_t place = -1;  // among the copies; -1: all are the same
  std::string text;         // names the tensor, and the ranks that have another than most
};

// The first of this rank's copies that is not the same on all ranks of the group, which have as many in the same order.
// `here`: this rank (rank_and_host). A collective call of the group: in the good case one text of 32 characters a rank.
DifferentCopy compare_copies(Communicator& group, const std::vector<Copy>& copies, const std::string& here);

}  // namespace upcycle
