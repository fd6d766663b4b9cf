#pragma once
#include <map>
#include <string>
#include <vector>

#include "launch/charts/chart.h"
#include "launch/study/report.h"

// The sections of report.html and what they share. Whatever a report lacks is left out: it may come from a study that
// is under way, or from a file that somebody made smaller.
namespace upcycle::study_page {

double number(const Json& j, const char* key);             // NaN where it is absent or null
std::string words(const Json& j, const char* key);         // ""
const Json& part(const Json& j, const char* key);          // null
std::vector<double> numbers(const Json& list);             // NaN for each null
std::vector<std::vector<double>> rows(const Json& lists);  // of each list

// A cell without its budget: a line of the plots against budgets.
struct Grid {
  std::string size;
  double duration = 0;
  auto operator<=>(const Grid&) const = default;
};
Grid grid_of(const Json& entry);

class View {
 public:
  explicit View(const Json& report);
  const Json& report;
  std::string baseline, candidate, new_set, old_set;
  std::vector<Grid> grids;      // in the order of the runs
  std::vector<double> budgets;  // of all comparisons and results, ascending
  bool budgets_in_tokens = false;

  int color(const std::string& arm) const;  // the same in all plots; of dense pretraining ("") the quiet one
  int shape(const Grid& grid) const;        // index among the grids
  // `otherwise` for the two arms that are compared; each other arm has a shape of its own, for who does not see its
  // color.
  int shape(const std::string& arm, int otherwise) const;
  int step(double budget) const;  // index among the budgets
  std::string name(const Grid& grid) const;
  std::string budget(double budget) const;  // "0.2", "1.2 M tokens"
  bool in_verdict_cell(const Json& entry) const;
  charts::Axis budget_axis() const;
  std::vector<const Json*> results(const std::string& arm = "") const;  // done runs of the results, of one arm or all
  // The entry of "serving" for a run's model: its arm's, or the dense model's for an arm without experts. Null: none.
  const Json* serving_of(const Json& run) const;
  const std::vector<std::string>& arms() const { return arms_; }

 private:
  std::vector<std::string> arms_;
};

}  // namespace upcycle::study_page
