#include "parallel/model/params.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {
namespace {

// In elements: packed weights start at 64-byte boundaries in bf16 and fp32.
constexpr std::int64_t kAlign = 32;
std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

class TableBuilder {
 public:
  TableBuilder(const ModelConfig& model, const Layout& layout, const Coordinates& at)
      : model_(model), layout_(layout), at_(at), s_(sizes_of(model, layout, at)) {
    table_.dense.ranks = layout.dp;
    table_.dense.rank = at.dp;
    table_.expert.ranks = layout.edp;
    table_.expert.rank = at.edp;
  }

  ParamTable build() {
    add_vocabulary(ParamRole::Embedding);
    close_buckets(-1);
    for (std::int64_t l = 0; l < s_.L; ++l) {
      add_layer(l);
      close_buckets(l);
    }
    add(norm(ParamRole::FinalNorm));
    if (!model_.tie_word_embeddings) add_vocabulary(ParamRole::Head);
    close_buckets(s_.L);
    return std::move(table_);
  }

 private:
  FlatGroup& flat(ParamGroup g) { return g == ParamGroup::Dense ? table_.dense : table_.expert; }

  void add(ParamRow row, bool pack_with_previous = false) {
    FlatGroup& g = flat(row.group);
    if (!pack_with_previous) g.size = round_up(g.size, kAlign);
    if (row.memory_rows == 0) row.memory_rows = row.part.rows;
    row.offset = g.size;
    g.size += row.memory_rows * row.part.columns;
    table_.places.emplace(row.name, table_.rows.size());
    table_.rows.push_back(std::move(row));
  }

  void close_buckets(std::int64_t layer) {
    for (FlatGroup* g : {&table_.dense, &table_.expert}) {
      const std::int64_t begin = g->buckets.empty() ? 0 : g->buckets.back().end;
      if (g->size == begin) continue;
      g->size = begin + round_up(g->size - begin, kAlign * g->ranks);
      g->buckets.push_back({layer, begin, g->size, g->shard_size});
      g->shard_size += (g->size - begin) / g->ranks;
    }
  }

  ParamRow matrix(ParamRole role, std::int64_t rows, std::int64_t columns, std::int64_t layer = -1,
                  std::int64_t expert = -1) const {
    ParamRow row;
    row.name = canonical_name(role, layer, expert);
    row.role = role;
    row.rows = rows;
    row.columns = columns;
    row.part = {0, 0, rows, columns};
    row.init_std = model_.initializer_range;
    row.layer = layer;
    row.expert = expert;
    return row;
  }

  void add_vocabulary(ParamRole role) {  // (V, H) -> (V/tp, H), padded
    ParamRow row = matrix(role, s_.V, s_.H);
    row.part = {s_.V_begin, 0, s_.V_valid, s_.H};
    if (s_.V_valid == 0) row.part.row = s_.V;
    row.memory_rows = s_.V_local;
    add(row);
  }

  ParamRow vector(ParamRole role, std::int64_t size, std::int64_t layer, Initializer initializer) const {  // (size)
    ParamRow row = matrix(role, 1, size, layer);
    row.is_vector = true;
    row.replicated_over_tp = true;
    row.initializer = initializer;
    row.weight_decay = false;
    return row;
  }
  ParamRow norm(ParamRole role, std::int64_t layer = -1) const {  // (H)
    return vector(role, s_.H, layer, model_.norm_unit_offset ? Initializer::Zeros : Initializer::Ones);
  }
  ParamRow bias(ParamRole role, std::int64_t size, std::int64_t layer) const {
    return vector(role, size, layer, Initializer::Zeros);
  }
  // A vector that goes with rows cut over tp: (size) -> (size/tp).
  ParamRow over_tp(ParamRow row) const {
    row.replicated_over_tp = false;
    return row_parallel(std::move(row), layout_.tp, at_.tp);
  }

  // Output rows cut over n ranks: (rows, columns) -> (rows/n, columns). This one's part is the index-th.
  static ParamRow column_parallel(ParamRow row, int n, int index) {
    row.part = {row.rows / n * index, 0, row.rows / n, row.columns};
    return row;
  }
  // Input columns cut over n ranks: (rows, columns) -> (rows, columns/n).
  static ParamRow row_parallel(ParamRow row, int n, int index) {
    row.part = {0, row.columns / n * index, row.rows, row.columns / n};
    return row;
  }
  ParamRow over_tp_by_rows(ParamRole role, std::int64_t rows, std::int64_t layer) const {
    return column_parallel(matrix(role, rows, s_.H, layer), layout_.tp, at_.tp);
  }
  ParamRow over_tp_by_columns(ParamRole role, std::int64_t columns, std::int64_t layer) const {
    return row_parallel(matrix(role, s_.H, columns, layer), layout_.tp, at_.tp);
  }

  void add_mlp(ParamRole gate, ParamRole up, ParamRole down, std::int64_t width, std::int64_t l) {
    add(over_tp_by_rows(gate, width, l));
    add(over_tp_by_rows(up, width, l), true);
    add(over_tp_by_columns(down, width, l));
  }

  void add_whole(ParamRole role, std::int64_t rows, std::int64_t l) {  // (rows, H), the same on all ranks of tp
    ParamRow row = matrix(role, rows, s_.H, l);
    row.replicated_over_tp = true;
    add(row);
  }

  // Biases are packed as the matrices are whose outputs they are added to.
  void add_attention_vectors(std::int64_t l) {
    if (model_.attention_bias != "none") {
      add(over_tp(bias(ParamRole::QueryBias, s_.N * s_.D, l)));
      add(over_tp(bias(ParamRole::KeyBias, s_.K * s_.D, l)), true);
      add(over_tp(bias(ParamRole::ValueBias, s_.K * s_.D, l)), true);
    }
    if (model_.attention_bias == "all") add(bias(ParamRole::AttentionOutBias, s_.H, l));
    const auto head_norm = [&](ParamRole role, std::int64_t heads) {
      const auto ones = [&](std::int64_t size) { return vector(role, size, l, Initializer::Ones); };
      add(model_.qk_norm == "full" ? over_tp(ones(heads * s_.D)) : ones(s_.D));
    };
    if (model_.qk_norm == "none") return;
    head_norm(ParamRole::QueryNorm, s_.N);
    head_norm(ParamRole::KeyNorm, s_.K);
  }

  void add_layer(std::int64_t l) {
    add(norm(ParamRole::AttentionNorm, l));
    add(over_tp_by_rows(ParamRole::Query, s_.N * s_.D, l));
    add(over_tp_by_rows(ParamRole::Key, s_.K * s_.D, l), true);
    add(over_tp_by_rows(ParamRole::Value, s_.K * s_.D, l), true);
    add(over_tp_by_columns(ParamRole::AttentionOut, s_.N * s_.D, l));
    add_attention_vectors(l);
    add(norm(ParamRole::MlpNorm, l));
    if (!model_.is_moe_layer(l)) {
      add_mlp(ParamRole::Gate, ParamRole::Up, ParamRole::Down, s_.F, l);
      if (model_.mlp_bias) {
        add(over_tp(bias(ParamRole::GateBias, s_.F, l)));
        add(over_tp(bias(ParamRole::UpBias, s_.F, l)), true);
        add(bias(ParamRole::DownBias, s_.H, l));
      }
      return;
    }

    add_whole(ParamRole::Router, s_.E, l);
    if (model_.router_bias) {
      ParamRow row = bias(ParamRole::RouterBias, s_.E, l);
      row.memory_rows = kRouterBiasRows;
      add(row);
    }
    if (model_.shared_expert)
      add_mlp(ParamRole::SharedGate, ParamRole::SharedUp, ParamRole::SharedDown, s_.shared_F, l);
    if (model_.shared_expert_gate) add_whole(ParamRole::SharedExpertGate, 1, l);
    const auto expert = [&](ParamRole role, std::int64_t e) {
      const bool down = role == ParamRole::ExpertDown;
      ParamRow row = down ? row_parallel(matrix(role, s_.H, s_.moe_F, l, e), layout_.etp, at_.etp)
                          : column_parallel(matrix(role, s_.moe_F, s_.H, l, e), layout_.etp, at_.etp);
      row.group = ParamGroup::Expert;
      return row;
    };
    // Packed so that the local experts' gate and up are one (E_local, 2 F, H) tensor, their downs one (E_local, H, F).
    for (std::int64_t i = 0; i < s_.E_local; ++i) {
      add(expert(ParamRole::ExpertGate, s_.E_begin + i), i > 0);
      add(expert(ParamRole::ExpertUp, s_.E_begin + i), true);
    }
    for (std::int64_t i = 0; i < s_.E_local; ++i) add(expert(ParamRole::ExpertDown, s_.E_begin + i), i > 0);
  }

  const ModelConfig& model_;
  const Layout& layout_;
  const Coordinates& at_;
  Sizes s_;
  ParamTable table_;
};

// Elements [begin, end) of the row's part, as rectangles of the global matrix: a partial first row, whole rows, a
// partial last row.
void cut(const ParamRow& row, std::int64_t begin, std::int64_t end, std::int64_t shard_of_row,
         std::vector<OwnedPiece>& out) {
  const std::int64_t width = row.part.columns;
  while (begin < end) {
    const std::int64_t r = begin / width, c = begin % width;
    const bool whole = c == 0 && end - begin >= width;
    const std::int64_t rows = whole ? (end - begin) / width : 1;
    const std::int64_t columns = whole ? width : std::min(width - c, end - begin);
    out.push_back(
        {&row, {row.part.row + r, row.part.column + c, rows, columns}, row.offset + begin, shard_of_row + begin});
    begin += rows * columns;
  }
}

}  // namespace

const ParamRow* ParamTable::find(const std::string& name) const {
  const auto it = places.find(name);
  return it == places.end() ? nullptr : &rows[it->second];
}

const ParamRow* ParamTable::find(ParamRole role, std::int64_t layer, std::int64_t expert) const {
  return find(canonical_name(role, layer, expert));
}

const Bucket& ParamTable::bucket_at(ParamGroup g, std::int64_t offset) const {
  const std::vector<Bucket>& buckets = group(g).buckets;
  const auto bucket = std::upper_bound(buckets.begin(), buckets.end(), offset,
                                       [](std::int64_t at, const Bucket& b) { return at < b.end; });
  UPCYCLE_CHECK(bucket != buckets.end(), "element {} is in no bucket", offset);
  return *bucket;
}

const Bucket& ParamTable::bucket_of(const ParamRow& row) const {
  const Bucket& bucket = bucket_at(row.group, row.offset);
  UPCYCLE_CHECK(row.offset + row.size() <= bucket.end, "{} is in no bucket", row.name);
  return bucket;
}

ParamTable make_param_table(const ModelConfig& model, const Layout& layout, const Coordinates& at) {
  return TableBuilder(model, layout, at).build();
}

ParamTable make_global_table(const ModelConfig& model) { return make_param_table(model, Layout{}, Coordinates{}); }

// A word more for each piece than their elements need, of which a row has three at most.
constexpr std::int64_t kPiecesOfARow = 3;

std::int64_t bit_words(const ParamTable& table, ParamGroup group) {
  return table.group(group).shard_size / 32 + kPiecesOfARow * static_cast<std::int64_t>(table.rows.size());
}

std::vector<OwnedPiece> owned_pieces(const ParamTable& table, const Coordinates& at, bool with_replicas) {
  std::vector<OwnedPiece> pieces;
  for (const ParamRow& row : table.rows) {
    if (row.replicated_over_tp && at.tp != 0 && !with_replicas) continue;
    const FlatGroup& g = table.group(row.group);
    const Bucket& bucket = table.bucket_of(row);
    const std::int64_t owned = g.owned_begin(bucket);
    const std::int64_t begin = std::max(row.offset, owned),
                       end = std::min(row.offset + row.size(), g.owned_end(bucket));
    const std::size_t before = pieces.size();
    if (begin < end) cut(row, begin - row.offset, end - row.offset, bucket.shard_begin + row.offset - owned, pieces);
    for (std::size_t i = before; i < pieces.size(); ++i)
      pieces[i].words =
          pieces[i].shard / 32 + kPiecesOfARow * (&row - table.rows.data()) + static_cast<std::int64_t>(i - before);
  }
  return pieces;
}

ParameterCount count_parameters(const ModelConfig& model) {
  ParameterCount count;
  std::int64_t experts = 0;
  for (const ParamRow& row : make_global_table(model).rows) {
    count.total += row.global_size();
    if (row.expert >= 0) experts += row.global_size();
  }
  count.active = count.total - experts;
  if (model.is_moe()) count.active += experts / model.num_local_experts * model.num_experts_per_tok;
  return count;
}

double training_flops_per_token(const ModelConfig& model, std::int64_t seq_length, FlopsCount count) {
  // Norms multiply no matrix, nor does the embedding look-up; a tied table is the output projection too.
  const bool paper = count == FlopsCount::Paper;
  std::int64_t products = count_parameters(model).active;
  for (const ParamRow& row : make_global_table(model).rows)
    if (row.is_vector || (paper && row.role == ParamRole::Router)) products -= row.global_size();
  if (!model.tie_word_embeddings) products -= model.vocab_size * model.hidden_size;
  const std::int64_t width = paper ? 2 * model.hidden_size : model.num_attention_heads * model.head_size();
  const double attention = static_cast<double>(model.num_hidden_layers * seq_length * width);
  return 6.0 * static_cast<double>(products) + 6.0 * attention;
}

}  // namespace upcycle
