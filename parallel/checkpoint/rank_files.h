#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

struct Hdf5Attributes;

// Weights that are saved alone have the type that was asked for, but for routers' biases, which choose by their last
// bits.
inline DType type_in_files(const ParamRow& row, std::optional<DType> weights_alone) {
  return row.role == ParamRole::RouterBias ? DType::F32 : weights_alone.value_or(DType::F32);
}

// One rectangle to write; values stay untouched until the save has finished.
struct SavedPiece {
  StateKind kind;
  std::string tensor;
  std::int64_t global_rows = 0, global_columns = 0;
  bool is_vector = false;
  Rectangle part;
  const float* values = nullptr;
  DType type = DType::F32;  // in the file
  // Where they are not there as fp32: fills out (rows, part.columns) with rows [row, row + rows) of the part.
  std::function<void(std::int64_t row, std::int64_t rows, float* out)> read = {};
};

// Where the rectangles of a tensor lie in a rank's file: "NAME/0", of a moment "exp_avg/NAME/0".
std::string stored_tensor_name(StateKind kind, const std::string& tensor);
// Of one rectangle: global_shape (rows, columns; a vector's has one number) and offset (row, column).
Hdf5Attributes rectangle_attributes(std::int64_t global_rows, std::int64_t global_columns, bool is_vector,
                                    const Rectangle& part);
// Of the file: format_version, step, rank.
Hdf5Attributes file_attributes(std::int64_t step, int rank);

// Writes model.rankNNNNN.h5 and, where there are moments, optimizer.rankNNNNN.h5 of one rank into `folder`, which is
// made where it is missing; flushes, syncs and hashes them. Call it on the HDF5 thread.
std::vector<Checkpoint::FileEntry> write_rank_files(const std::string& folder, std::int64_t step, int rank,
                                                    const std::vector<SavedPiece>& pieces);
// Fills out (rows, part.columns) with rows [row, row + rows) of the piece's part.
using PieceReader = std::function<void(const SavedPiece& piece, std::int64_t row, std::int64_t rows, float* out)>;
// The same files, byte for byte, for pieces whose values are not in memory: they are read while writing, through one
// buffer of 32 MiB. Not from the HDF5 thread, which `read` may use.
std::vector<Checkpoint::FileEntry> stream_rank_files(const std::string& folder, std::int64_t step, int rank,
                                                     const std::vector<SavedPiece>& pieces, const PieceReader& read);
// The same through the caller's buffers, each at least a row of the widest piece: one is written while the next is
// filled. Returns once all values are written, with what is left: a job for the HDF5 thread that closes, syncs and
// hashes the files.
using FinishFiles = std::function<std::vector<Checkpoint::FileEntry>()>;
FinishFiles stream_values(const std::string& folder, std::int64_t step, int rank, const std::vector<SavedPiece>& pieces,
                          const PieceReader& read, const std::vector<std::span<float>>& buffers);
// Size and hash of a written file.
Checkpoint::FileEntry file_entry(const std::string& folder, const std::string& name);
// The files of a model's folder that travel with its weights: tokenizer.json, *.model, generation_config.json,
// config.json... Paths. Of a checkpoint only what its manifest lists, with a checksum: a symbolic link there may point
// anywhere. Of another folder a link that leads outside is an InputError (refuse_link_outside): its file would be
// copied.
std::vector<std::string> travelling_files(const std::string& folder);
// Those of a model whose tokenizer is this file: its generation_config.json and config.json stay, the tokenizer comes
// with what lies beside it: tokenizer_config.json, special_tokens_map.json, chat_template.jinja...
std::vector<std::string> with_tokenizer(const std::vector<std::string>& travel, const std::string& tokenizer);
// What such a file is called in a checkpoint: as it is, but for config.json (models/original_config.h), which would say
// that the folder is of Hugging Face's form.
std::string travelling_name(const std::string& path);

// A file that travels, under its name in a checkpoint. Read once: a run saves it again and again, while the folder that
// it came from may go, as the step from which a run was resumed does under checkpoint.keep.
struct TravellingFile {
  std::string name, bytes;
};
// `with_bytes` false: only the names, for a rank that does not write them. InputError where two have one name, or one
// is missing.
std::vector<TravellingFile> read_travelling(const std::vector<std::string>& paths, bool with_bytes = true);
// Writes each to `folder`, synced.
std::vector<Checkpoint::FileEntry> write_travelling(const std::string& folder,
                                                    const std::vector<TravellingFile>& files);

}  // namespace upcycle
