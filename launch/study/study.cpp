#include "launch/study/study.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "parallel/model/params.h"

namespace upcycle {

const StudyArm& Study::arm(const std::string& arm) const {
  const auto it = std::ranges::find(arms, arm, &StudyArm::name);
  UPCYCLE_CHECK(it != arms.end(), "no arm {}", arm);
  return *it;
}

const std::vector<double>& StudyArm::rates(const std::string& size) const {
  static const std::vector<double> none;
  const auto own = learning_rates.find(size), all = learning_rates.find("");
  return own != learning_rates.end() ? own->second : all != learning_rates.end() ? all->second : none;
}

std::vector<double> budgets_of(const Study& s, const std::string& size) {
  return s.size(size).budgets.empty() ? s.budgets : s.size(size).budgets;
}

std::vector<double> durations_of(const Study& s, const std::string& name) {
  const StudySize& size = s.size(name);
  if (size.load.empty()) return size.durations.empty() ? s.durations : size.durations;
  const auto parameters = static_cast<double>(count_parameters(size.model).total);
  return {std::round(static_cast<double>(size.pretrained_tokens) / parameters * 10) / 10};
}

const StudySize& Study::size(const std::string& size) const {
  const auto it = std::ranges::find(sizes, size, &StudySize::name);
  UPCYCLE_CHECK(it != sizes.end(), "no size {}", size);
  return *it;
}

}  // namespace upcycle
