#pragma once
#include <vector>

#include "parallel/model/params.h"

namespace upcycle {

// The common part; without rows or columns if there is none.
Rectangle intersection(const Rectangle& a, const Rectangle& b);

// Disjoint rectangles that cover what these cover, in the order of rows, then columns.
std::vector<Rectangle> disjoint(const std::vector<Rectangle>& rectangles);

}  // namespace upcycle
