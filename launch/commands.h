#pragma once
#include <string>
#include <vector>

namespace upcycle {

inline constexpr const char* version = "0.1";

// One function per subcommand, in the file of its name. `arguments` are those after the subcommand; returns the exit
// code. InputError becomes one line and exit code 2; any other exception ends the whole job with 1. With --json a
// command prints one JSON object on standard output and nothing else there.
using Arguments = std::vector<std::string>;

int run_tokenize(const Arguments& arguments);
int run_import(const Arguments& arguments);
int run_export(const Arguments& arguments);
int run_train(const Arguments& arguments);
int run_eval(const Arguments& arguments);
int run_cloze(const Arguments& arguments);
int run_score(const Arguments& arguments);
int run_experts(const Arguments& arguments);
int run_generate(const Arguments& arguments);
int run_inspect(const Arguments& arguments);
int run_plot(const Arguments& arguments);
int run_diff(const Arguments& arguments);
int run_reshard(const Arguments& arguments);
int run_bench(const Arguments& arguments);
int run_doctor(const Arguments& arguments);
int run_plan(const Arguments& arguments);
int run_compare(const Arguments& arguments);

}  // namespace upcycle
