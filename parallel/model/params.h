#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "parallel/model/param_role.h"
#include "parallel/model/sizes.h"

// The parameter table: one row per parameter that this rank holds a part of. Initialisation, import and export,
// checkpoints, resharding, upcycling, gradient reduction, norm and clipping, ZeRO, `plan` and `inspect` all walk it;
// none has a list of its own.
namespace upcycle {

// Part of a global matrix: rows [row, row + rows), columns [column, column + columns). A vector is one row.
struct Rectangle {
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;
  std::int64_t size() const { return rows * columns; }
  bool operator==(const Rectangle&) const = default;
};

// Which ranks hold copies: dense parameters are replicated over dp, experts over edp.
enum class ParamGroup : std::uint8_t { Dense, Expert };
enum class Initializer : std::uint8_t { Normal, Ones, Zeros };

struct ParamRow {
  std::string name;  // canonical_name of its role, layer and expert
  ParamRole role;
  std::int64_t rows, columns;  // global shape; a vector has rows = 1 and is_vector
  bool is_vector = false;
  Rectangle part;                // what this rank holds (without padding)
  std::int64_t memory_rows = 0;  // rows in memory: part.rows, more where the vocabulary is padded, or of a RouterBias
  ParamGroup group = ParamGroup::Dense;
  bool replicated_over_tp =
      false;  // norms, router, biases of outputs: whole on every tp rank, gradients summed over tp; tp rank 0 owns it
  Initializer initializer = Initializer::Normal;
  double init_std = 0;
  bool weight_decay = true;
  std::int64_t layer = -1, expert = -1;  // -1: not of a layer, not an expert
  std::int64_t offset = 0;               // first element in the group's flat buffer; part is stored row-major there
  std::int64_t size() const { return part.size(); }
  std::int64_t global_size() const { return rows * columns; }
};

// A stretch of the flat buffer that is reduced and gathered at once: the embedding, a layer, the head. Each of the
// group's `ranks` owns an equal part of it, which only that rank keeps in fp32 and updates (ZeRO-1, arXiv 1910.02054).
struct Bucket {
  std::int64_t layer = 0;           // whose parameters: -1 the embedding's, L the final norm's and the head's
  std::int64_t begin = 0, end = 0;  // elements; a multiple of ranks
  std::int64_t shard_begin = 0;     // where this rank's part starts in its optimizer buffers
};

struct FlatGroup {
  std::int64_t size = 0;        // elements of parameters and gradients on this rank, padding included
  std::int64_t shard_size = 0;  // elements of optimizer state on this rank
  int ranks = 1, rank = 0;      // dp or edp
  std::vector<Bucket> buckets;
  std::int64_t owned_begin(const Bucket& b) const { return b.begin + (b.end - b.begin) / ranks * rank; }
  std::int64_t owned_end(const Bucket& b) const { return b.begin + (b.end - b.begin) / ranks * (rank + 1); }
};

// A router chooses by its biases in fp32, in bf16 runs too: they lie behind the rounded ones, and every rank keeps all
// of them equal. In elements of the working type: E, E that are unused, 2 E.
inline constexpr std::int64_t kRouterBiasRows = 4;

struct ParamTable {
  std::vector<ParamRow> rows;
  std::map<std::string, std::size_t> places;  // a name's row
  FlatGroup dense, expert;
  const FlatGroup& group(ParamGroup g) const { return g == ParamGroup::Dense ? dense : expert; }
  const Bucket& bucket_at(ParamGroup g, std::int64_t offset) const;  // of an element of the flat buffer
  const Bucket& bucket_of(const ParamRow& row) const;                // a row lies in one bucket
  const ParamRow* find(const std::string& name) const;               // null: this rank holds none of that name
  const ParamRow* find(ParamRole role, std::int64_t layer = -1, std::int64_t expert = -1) const;
};

ParamTable make_param_table(const ModelConfig& model, const Layout& layout, const Coordinates& at);

// Every parameter of the model with its global shape, as one rank would hold it; what inspect and export list.
ParamTable make_global_table(const ModelConfig& model);

// A piece of one parameter that this rank owns: `part` of the global matrix, contiguous and row-major in the flat
// buffer from `flat` on, and in the optimizer buffers from `shard` on. A flat range cuts a matrix into at most three.
struct OwnedPiece {
  const ParamRow* row;
  Rectangle part;
  std::int64_t flat, shard;
  std::int64_t words = 0;  // its first word in optimizer buffers of one bit per element
};
// The size of such a buffer: no two pieces have bits in one word.
std::int64_t bit_words(const ParamTable& table, ParamGroup group);
// The owned pieces of all rows, each logical element on exactly one rank of the mesh: a parameter replicated over tp
// is owned by tp rank 0. `with_replicas`: this rank's copies too (what it must update).
std::vector<OwnedPiece> owned_pieces(const ParamTable& table, const Coordinates& at, bool with_replicas);

// Totals over the whole model, from the global table.
struct ParameterCount {
  std::int64_t total = 0, active = 0;  // active: what one token uses (k of E experts)
};
ParameterCount count_parameters(const ModelConfig& model);

// How training FLOPs are counted: 6 per matmul parameter in use, forward and backward, plus attention's.
enum class FlopsCount {
  Causal,  // 6 * L * S * N * D: half of S x S, which is what our kernels compute
  Paper,   // 12 * L * S * H: all of S x S, but without the routers' products, under a thousandth (arXiv 2411.08968; its
           // token ratios at equal FLOPs come out so)
};

// Training FLOPs of one token, without recomputation. Causal is what Megatron and PaLM's appendix B count. Inference: a
// third of it.
double training_flops_per_token(const ModelConfig& model, std::int64_t seq_length,
                                FlopsCount count = FlopsCount::Causal);

}  // namespace upcycle
