#include "launch/study/study.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {

const StudyArm& Study::arm(const std::string& arm) const {
  const auto it = std::ranges::find(arms, arm, &StudyArm::name);
  UPCYCLE_CHECK(it != arms.end(), "no arm {}", arm);
  return *it;
}

const StudySize& Study::size(const std::string& size) const {
  const auto it = std::ranges::find(sizes, size, &StudySize::name);
  UPCYCLE_CHECK(it != sizes.end(), "no size {}", size);
  return *it;
}

}  // namespace upcycle
