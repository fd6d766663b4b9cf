#pragma once
#include <string>
#include <vector>

#include "launch/training_run.h"

// The checkpoints of a training run. Functions that take the run are collective.
namespace upcycle {

// The files to write into each checkpoint (travelling_files): those beside the weights from which the run started, with
// data.tokenizer, if given, in the place of their tokenizer.
std::vector<TravellingFile> travelling(const RunSetup& setup, bool with_bytes);

// Warns that later steps exist which will be replaced: the run was set back by hand, for example after a loss spike.
void warn_of_newer_steps(const std::string& dir);

// Of a run that resumes or starts in a folder with weights alone newer than what it goes on from: says that it writes
// them anew.
void tell_of_newer_models(const std::string& dir);

// A save that fails (SaveFailed) does not end training: it is said, with what went wrong and where, and the last
// checkpoint stays what it was. Where three in a row fail, of whole states or of weights alone, the functions below
// throw SaveFailed on all ranks.
inline constexpr int kMostFailedSaves = 3;

// Starts to save the current state. Where checkpoint.max_pending saves are under way already, publishes the oldest of
// them first; if checkpoint.background is false, this one too.
void start_save(TrainingRun& run);

// The same of the weights alone, in checkpoint.model_dtype.
void start_model_save(TrainingRun& run);

// Waits for the saves in progress, if any, and publishes them.
void finish_saves(TrainingRun& run);

// At the end: waits for the saves in progress, and saves the state unless `is_saved`, or where that failed. SaveFailed
// where it can not be saved.
void save_last(TrainingRun& run, bool is_saved);

// Publishes the saves in progress whose files are complete on every rank: until `latest` names it, a killed run would
// lose it.
void publish_written(TrainingRun& run);

// After steps that were skipped in a row: saves the state before them, with the data position after them, so that a run
// with other settings can resume from it. Keeps older steps regardless of checkpoint.keep, because the weights
// may already be ruined. Returns a description of what was done.
std::string save_before_divergence(TrainingRun& run);

}  // namespace upcycle
