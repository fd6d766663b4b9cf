#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "data/files.h"
#include "launch/charts/page.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "launch/run_curves.h"
#include "launch/study/page/curve_charts.h"
#include "launch/study/page/load_maps.h"

namespace upcycle {
namespace {

// The names of runs without the folders that all share: "runs/moe", "runs/cpt" are moe and cpt.
std::vector<std::string> short_names(const std::vector<std::string>& runs) {
  std::vector<std::string> names;
  for (const std::string& run : runs) {
    const std::filesystem::path path = std::filesystem::path(run + "/").parent_path().lexically_normal();
    names.push_back(path.has_filename() ? path.filename().string() : path.parent_path().filename().string());
  }
  return std::set<std::string>(names.begin(), names.end()).size() == names.size() ? names : runs;
}

study_page::Curve curve_of(const RunCurves::Curve& c) { return {c.tokens, c.loss, c.flops, c.seconds}; }

}  // namespace

int run_plot(const Arguments& arguments) {
  std::vector<std::string> runs;
  std::string output = "plot.html";
  Options options("plot",
                  "The training curves of runs as one page that opens in a browser without network: loss against "
                  "tokens, FLOPs and time, held-out loss, load of the experts.");
  options.option("--output", output, "the page; a name that ends in .svg: a picture of loss and load instead");
  options.positionals("RUN", runs, "run folders, checkpoint.dir of `upcycle train`");
  options.example("upcycle plot runs/moe runs/cpt --output plot.html", "two runs' curves on one page");
  options.example("upcycle plot runs/moe runs/cpt --output plot.svg", "their loss as a picture, e.g. for a README");
  if (!options.parse(arguments)) return 0;
  if (!std::filesystem::is_directory(parent_folder(output)))
    input_error("command line: --output: found no folder {}, expected one to write {} into", parent_folder(output),
                output);
  const std::vector<std::string> names = short_names(runs);
  std::vector<study_page::TrainedRun> trained;
  std::vector<std::string> sets;
  std::string loads;
  std::vector<charts::Panel> at_the_end;  // of the last run that has experts
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunCurves curves = read_run_curves(runs[r]);
    const int look = static_cast<int>(r);
    study_page::TrainedRun run{
        names[r], names[r], {look, look, look / charts::color_count}, false, curve_of(curves.training), {}};
    for (const auto& [set, curve] : curves.held_out) {
      run.held_out[set] = curve_of(curve);
      if (std::ranges::find(sets, set) == sets.end()) sets.push_back(set);
    }
    trained.push_back(run);
    if (!curves.layers.empty())
      loads += study_page::load_charts(
          {names[r], look, curves.load_tokens, curves.layers, curves.max_over_mean, curves.entropy}, names[r]);
    if (!curves.shares.empty()) {
      loads += study_page::load_maps(names[r], curves.share_tokens, curves.layers, curves.shares);
      charts::HeatMap load = study_page::load_at_the_end(names[r], curves.layers, curves.shares);
      load.title += ", of " + names[r];
      at_the_end = {charts::heat_map_panel(load)};
    }
  }
  if (output.ends_with(".svg")) {
    std::vector<charts::Chart> loss = study_page::curves_of(trained, sets);
    loss.resize(std::min<std::size_t>(2 - at_the_end.size(), loss.size()));  // against tokens, and against FLOPs
    write_text_atomic(output, charts::charts_svg(loss, at_the_end));
    fmt::print("{}\n", output);
    return 0;
  }
  const std::vector<charts::Section> sections = {
      {"curves", "Loss",
       "Held-out loss from the evaluations of each run, training loss as means over its steps. Time is that of the "
       "steps, "
       "without what lies between them.",
       study_page::curve_charts(trained, sets, ""), ""},
      {"load", "Expert load in training",
       "Below the curves, how the training tokens of each layer spread over its experts, in percent: no color is an "
       "even share, orange "
       "busier, blue idler.",
       loads, "None of the runs has experts."}};
  std::string title = names[0];
  for (std::size_t r = 1; r < names.size(); ++r) title += ", " + names[r];
  std::string body =
      "<header><h1>Training curves</h1>\n<p class=\"verdict\">" + charts::escaped(title) + "</p></header>\n";
  for (const charts::Section& s : sections) body += charts::section_html(s);
  write_text_atomic(output, charts::page_of(title, body));
  fmt::print("{}\n", output);
  return 0;
}

}  // namespace upcycle
