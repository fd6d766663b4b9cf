#include "launch/command_table.h"

namespace upcycle {
namespace {

constexpr Command commands[] = {
    {"plan", run_plan, Ranks::One, "what a run on any number of ranks needs: memory, traffic, FLOPs, files"},
    {"tokenize", run_tokenize, Ranks::One, "text files to a token set"},
    {"import", run_import, Ranks::One, "a Hugging Face directory to a sharded HDF5 checkpoint"},
    {"compare", run_compare, Ranks::One, "the study of a file: all its runs, and a report on them"},
    {"train", run_train, Ranks::Many, "pretrain, continue, or upcycle and train"},
    {"eval", run_eval, Ranks::Many, "held-out loss of a model on a token set"},
    {"cloze", run_cloze, Ranks::Many, "how often a model prefers the true continuation of held-out text"},
    {"score", run_score, Ranks::Many, "log-likelihood of given token ids"},
    {"experts", run_experts, Ranks::Many, "how the experts of each layer have parted, and what they are given"},
    {"generate", run_generate, Ranks::Many, "continue texts"},
    {"inspect", run_inspect, Ranks::One, "what a model or checkpoint is"},
    {"plot", run_plot, Ranks::One, "the training curves of runs, as a page that opens in a browser"},
    {"diff", run_diff, Ranks::One, "the first tensor in which two dumps or models differ, and by how much"},
    {"reshard", run_reshard, Ranks::One, "a checkpoint to the files of another layout"},
    {"export", run_export, Ranks::One, "a model to a Hugging Face directory"},
    {"doctor", run_doctor, Ranks::Many, "is this machine fit to train on? every rank tries products and exchanges"},
    {"bench", run_bench, Ranks::Many, "measure or predict: training steps, ops, saving, serving"},
};

}  // namespace

std::span<const Command> all_commands() { return commands; }

std::vector<CommandInfo> describe_all() {
  std::vector<CommandInfo> all;
  for (const Command& c : commands) all.push_back(describe_command(c.run));
  for (const char* name : {"serve", "predict", "calibrate", "checkpoint"})
    all.push_back(describe_command(run_bench, {name}));
  return all;
}

}  // namespace upcycle
