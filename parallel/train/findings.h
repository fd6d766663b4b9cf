#pragma once
#include <cstdint>
#include <string>

#include "core/staging.h"
#include "parallel/comm/mesh.h"

// What ranks say of something wrong that they have found.
namespace upcycle {

// "rank 3 on node1"
std::string rank_and_host(const Mesh& mesh);

// What the ranks have found, each the text of its first finding and the place of it in an order that is the same on all
// (-1: nothing): the earliest on any rank, with how many others found something at the same place; "" where none did.
// Alike on all ranks. A collective call.
std::string earliest(Communicator& world, std::int64_t place, const std::string& text);

// A hash of a tensor's bits, 32 characters.
std::string digest_of(Staging& staging, const Tensor& x);

}  // namespace upcycle
