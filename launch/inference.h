#pragma once
#include <memory>
#include <string>

#include "launch/backend.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/serve/loaded_model.h"

// What the commands that read a model and compute with it share: eval, cloze, score, generate, bench serve.
//
//   Options options("score", "...");
//   InferenceOptions inference;
//   declare(options, inference);
//   if (!options.parse(arguments)) return 0;
//   return run_with_ranks([&](const MpiSession& session) {
//     const Inference ranks = start_inference(session, "score", arguments, inference);
//     const auto source = open_over_ranks(ranks, dir);
//     agree_or_throw(*ranks.mesh.world, [&] { ...; check_fits_inference(ranks.backend, ...); });
//     const LoadedModel model = load_over_ranks(ranks, *source);
//     ...  // if (session.rank() == 0) print
//   });
namespace upcycle {

// Their options, under the names of the config's keys.
struct InferenceOptions {
  std::string dtype = "fp32", device = "cpu";
  std::int64_t tp = 1, ep = 1, etp = 1;
  double timeout_s = 600;
};
void declare(Options& options, InferenceOptions& inference);

// What one rank computes with; must outlive the models that it loads.
struct Inference {
  Config config;  // dtype, device and parallel; the rest is default
  Backend backend;
  Mesh mesh;
};

// The first thing of such a command on every rank. Checks that all run the same command with the same arguments, and
// that the layout fits the number of ranks. Collective; errors are agreed.
Inference start_inference(const MpiSession& session, const std::string& command, const Arguments& arguments,
                          const InferenceOptions& options);

// The layout of `world` ranks that the model is used with; `name` says where the model comes from. InputError naming
// the nearest layouts that work where it does not divide over it.
Layout inference_layout(const ModelConfig& model, int world, const ParallelConfig& parallel, const std::string& name);

// A checkpoint or a Hugging Face directory whose model this layout can be used with and the device can compute.
// Collective; errors are agreed.
std::unique_ptr<TensorSource> open_over_ranks(const Inference& ranks, const std::string& dir);

// Sequences of S tokens in one pass of each replica: `asked`, or for 0 so many that they have about 4096 tokens; no
// more than there are, and so many that tp divides their tokens.
std::int64_t sequences_per_pass(std::int64_t asked, std::int64_t S, std::int64_t there_are, std::int64_t tp);

// Bytes that are free to each rank, on the machine or its GPU: the least of all ranks, which must schedule alike.
// Collective.
double memory_of_each(const Backend& backend, const Mesh& mesh);

// Bytes that each rank may take for a model that it serves (scheduler_options): nine tenths of what the rank with the
// least has free for itself. Collective; call it before anything is allocated.
std::size_t memory_for_serving(const Inference& ranks);

// Reads this rank's part of the weights. First check, on all ranks, that everything fits (check_fits.h). Collective.
LoadedModel load_over_ranks(const Inference& ranks, TensorSource& source);

}  // namespace upcycle
