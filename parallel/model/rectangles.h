#pragma once
#include <vector>

#include "parallel/model/params.h"

namespace upcycle {

// What lies in both; no rows or no columns where nothing does.
Rectangle intersection(const Rectangle& a, const Rectangle& b);

// Disjoint rectangles that cover what these cover, in the order of rows, then columns.
std::vector<Rectangle> disjoint(const std::vector<Rectangle>& rectangles);

}  // namespace upcycle
