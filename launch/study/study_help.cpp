#include "launch/study/study_help.h"

namespace upcycle {

std::string study_help() {
  return R"(study.json: a grid of dense sizes x pretraining durations x budgets x arms. Paths are relative to the folder in
which `upcycle compare` starts. "run" objects hold config keys (`upcycle help config`); where several name a key, the
last of this list counts: run, sizes.NAME.run, pretraining.run or continuation.run, arms.NAME.run.

  name                       of the study: letters, digits, '.', '_', '+'
  output                     folder of everything it writes; default runs/NAME
  flops                      causal | paper: how FLOPs are counted. paper (arXiv 2411.08968): attention without the
                             causal half, the input embedding left out
  match                      flops | tokens | wall_time: what arms of one budget have in common. wall_time: tokens from
                             a speed that is measured once and stored
  run                        config keys of all runs: dtype, train.seq_length, batch sizes, optimizer ...

  data.tokenizer             sentencepiece model; needed for bits per byte
  data.pretraining           token set PREFIX, or a blend [{"path", "weight"}, ...]
  data.continuation          the same, of all arms
  data.valid                 held-out token sets {NAME: PREFIX, ...}: the first half of their documents chooses learning
                             rates, the second is reported; longer ones count as pieces of 2048 tokens
  data.old, data.new         names in data.valid: the domains of pretraining and of continuation; default first and last
  data.most_epochs           more epochs than this are refused; default 4

  sizes.NAME.model           a dense model to pretrain, or
  sizes.NAME.load            a pretrained one: a checkpoint or a Hugging Face directory
  sizes.NAME.pretrained_tokens   load: the tokens it was trained on, of which budgets are shares
  sizes.NAME.tokens_per_parameter, budgets   in place of those below
  sizes.NAME.run             config keys of this size's runs
  pretraining.tokens_per_parameter   durations, e.g. [20, 60]
  pretraining.run            config keys: train.lr, train.warmup_steps ...
  continuation.budgets       shares of the pretraining's FLOPs, e.g. [0.2, 0.4, 0.8], or
  continuation.tokens        tokens of the baseline
  continuation.sweep_budget  budget of the first sweep of learning rates, at each size's shortest duration; default the
                             smallest. The second is at the verdict's size and duration and the largest budget
  continuation.most_warmup   share of the shortest budget that warm-up may take; default 0.1
  continuation.trunk         true: runs of different budgets (and durations) are branches of one warm-up-stable-decay
                             trunk; false: each is a run of its own
  continuation.run           config keys: train.warmup_steps ...

  arms.NAME.from             dense (continued pretraining) | upcycle | random (from scratch)
  arms.NAME.learning_rates   one, taken as given, or at least three, which are swept; or {SIZE: list}. All arms have as many
  arms.NAME.learning_rate_of takes the rate chosen for another arm
  arms.NAME.budget           random: continuation | total (pretrained as long as the dense model, then continued)
  arms.NAME.only             {"size", "duration", "budget", "seeds"}: runs on this cell alone
  arms.NAME.run              config keys: model.num_local_experts ..., upcycle.*, train.*
  baseline, candidate        the arms of the verdict; default the first from dense and the first from upcycle
  seeds                      of each continuation: order of the data, new routers. Pretraining has one; default 1
  verdict                    {"size", "duration", "budget", "seeds"}: the cell behind the verdict; default the last size's
                             longest duration and largest budget

  cloze.items, candidates, context, length   default 1000, 4, 64, 16 (tokens); 0 items: none
  serving.measure            true: serving is measured on this machine, or
  serving.machine            predicted for this machine file, with
  serving.training_mfu       the share of its product rate that training reaches there
  serving.input_len, output_len   tokens of a request
  launch.ranks               ranks of one run; default 1
  launch.at_once             runs at the same time; default 1
  launch.threads             threads of a rank; default: the cores, divided
  launch.command             what starts a run's ranks, e.g. ["srun", "--mpi=pmix", "-n", "{ranks}"]; default mpirun

A key below another is also set by --A.B=VALUE, e.g. --sizes.mine.load=DIR.
)";
}

}  // namespace upcycle
