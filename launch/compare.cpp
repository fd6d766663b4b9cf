#include <filesystem>

#include "data/files.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "launch/stop_signals.h"
#include "launch/study/driver.h"
#include "launch/study/study_plan.h"

namespace upcycle {
namespace {

void write_report(const Study& study, const std::vector<StudyResult>& results,
                  const std::vector<ServingResult>& serving, const std::vector<std::string>& problems) {
  Json report = make_report(study, results, serving, read_rates(study));
  for (const std::string& problem : problems) report["study"]["notes"].push_back(problem);
  write_text_atomic(study.output + "/runs.csv", runs_csv(report));
  write_text_atomic(study.output + "/gain.svg", gain_svg(report));
  write_text_atomic(study.output + "/report.html", report_html(report));
  write_text_atomic(study.output + "/report.json", report.dump(1) + "\n");
}

}  // namespace

int run_compare(const Arguments& arguments) {
  std::string file, output;
  std::vector<std::string> overrides;
  Options options(
      "compare",
      "The whole study of a file: trains and measures a grid of dense sizes, pretraining durations, budgets and arms, "
      "each run as a process of its own, and writes OUTPUT/report.html, report.json, runs.csv and gain.svg. Started "
      "again it "
      "does "
      "only what is missing; started several times, as by launch/study.sbatch, the drivers share the work. Exit code "
      "0: "
      "all is done; 4: the report is written, but some runs failed; 3: stopped by a signal. `upcycle plan` says what a "
      "study costs, `upcycle help study` what is in its file.");
  options.positional("study", file, "JSON file of the study");
  options.option("--output", output, "folder of everything that it writes; by default the file's `output`");
  options.config_overrides(overrides);
  options.example("upcycle compare launch/configs/study_small.json",
                  "runs what is not done yet of the study, then writes its report");
  if (!options.parse(arguments)) return 0;
  if (!output.empty()) overrides.push_back("--output=" + output);
  const Study study = read_study(file, overrides);
  check_study(study, planned_runs(study));
  catch_stop_signals();
  catch_interrupt();
  StudyProgram program;
  program.binary = std::filesystem::read_symlink("/proc/self/exe").string();
  program.known = [&, timed = false](const ChosenRate& chosen, const MeasuredRate& measured) mutable {
    std::vector<StudyRun> runs = known_runs(study, chosen, measured);
    // How long runs of equal wall time are is known only once speeds are measured.
    if (study.match == Match::WallTime && !timed && runs.size() > 0 && runs.back().kind == "arm") {
      check_study(study, runs);
      timed = true;
    }
    return runs;
  };
  program.report = [&](const std::vector<StudyResult>& results, const std::vector<ServingResult>& serving,
                       const std::vector<std::string>& problems) { write_report(study, results, serving, problems); };
  return drive_study(study, program);
}

}  // namespace upcycle
