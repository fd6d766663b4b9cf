#include "parallel/train/owned_state.h"

#include <algorithm>
#include <bit>

#include "core/split_float.h"

namespace upcycle {
namespace {

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

// Bits of elements [begin, ...) in words.
bool bit_at(const std::int32_t* words, std::int64_t i) {
  return (static_cast<std::uint32_t>(words[i / 32]) >> (i % 32) & 1u) != 0;
}
void set_bit(std::int32_t* words, std::int64_t i, bool on) {
  const std::uint32_t bit = std::uint32_t{1} << (i % 32), others = static_cast<std::uint32_t>(words[i / 32]) & ~bit;
  words[i / 32] = static_cast<std::int32_t>(others | (on ? bit : 0));
}

// A vector where its elements are adjacent: staging cuts only between rows.
Tensor view(const Tensor& piece, const PiecePart& part) {
  const bool adjacent = part.rows == 1 || part.columns == part.pitch;
  if (adjacent) return piece.slice_rows(part.first, part.first + part.rows * part.columns);
  Tensor t = piece.slice_rows(part.first, part.first + (part.rows - 1) * part.pitch + part.columns);
  t.rank = 2;
  t.shape = {part.rows, part.columns};
  t.row_stride = part.pitch;
  return t;
}

// The words with the bits of a part, and the element of the piece that the first bit is of.
struct TieWords {
  Tensor there;
  std::int64_t first;
  std::vector<std::int32_t> here;

  TieWords(Staging& staging, const Tensor& ties, const PiecePart& part) {
    const std::int64_t last = part.first + (part.rows - 1) * part.pitch + part.columns - 1, word = part.first / 32;
    there = ties.slice_rows(word, last / 32 + 1);
    first = 32 * word;
    here.resize(static_cast<std::size_t>(there.size()));
    staging.read(there, [&](const void* host, std::int64_t row, std::int64_t rows) {
      std::copy_n(static_cast<const std::int32_t*>(host), rows, here.data() + row);
    });
  }
  void write_back(Staging& staging) const {
    staging.write(there, [&](void* host, std::int64_t row, std::int64_t rows) {
      std::copy_n(here.data() + row, rows, static_cast<std::int32_t*>(host));
    });
  }
};

// The element of the piece that value i of a part is.
std::int64_t element(const PiecePart& part, std::int64_t i) {
  return part.first + i / part.columns * part.pitch + i % part.columns;
}

std::vector<bf16> read_bits(Staging& staging, const Tensor& from) {
  std::vector<bf16> bits(static_cast<std::size_t>(from.size()));
  staging.read(from, [&](const void* host, std::int64_t row, std::int64_t rows) {
    std::copy_n(static_cast<const bf16*>(host), rows * from.columns(), bits.data() + row * from.columns());
  });
  return bits;
}

}  // namespace

StatePiece state_piece(const TrainMemory& memory, StateKind kind, const OwnedPiece& p) {
  if (kind == StateKind::Moment1) return {shard_piece_of(memory.m, p), {}, {}};
  if (kind == StateKind::Moment2) return {shard_piece_of(memory.v, p), {}, {}};
  if (!memory.form.split_masters) return {master_piece(memory, p), {}, {}};
  return {shard_piece_of(memory.master, p), piece_of(memory.weights, p), ties_of(memory, p)};
}

StatePiece take_copy(Arena& host, const StateForm& form, StateKind kind, const OwnedPiece& p) {
  const std::int64_t n = p.part.size();
  if (kind != StateKind::Master) return {host.take(form.moment, {n}), {}, {}};
  if (!form.split_masters) return {host.take(DType::F32, {n}), {}, {}};
  return {host.take(DType::BF16, {n}), host.take(DType::BF16, {n}), host.take(DType::I32, {(n + 31) / 32})};
}

void copy_to_host(Device& device, Stream& stream, const StatePiece& to, const StatePiece& from) {
  for (const auto& part : {&StatePiece::values, &StatePiece::weight, &StatePiece::ties})
    if ((from.*part).data != nullptr)
      device.copy_to_host(stream, (to.*part).data, (from.*part).data, (to.*part).bytes());
}

void copied_floats(const StatePiece& copy, std::int64_t begin, std::int64_t n, float* out) {
  if (copy.weight.data == nullptr) {
    Staging here;
    return read_floats(here, copy.values.slice_rows(begin, begin + n), out);
  }
  const bf16 *const high = copy.weight.as<bf16>(), *const low = copy.values.as<bf16>();
  const auto* const ties = copy.ties.as<std::int32_t>();
  for (std::int64_t i = begin; i < begin + n; ++i)
    out[i - begin] = std::bit_cast<float>(join_halves(high[i].bits, low[i].bits, bit_at(ties, i)));
}

void read_state(Staging& staging, const TrainMemory& memory, StateKind kind, const OwnedPiece& p, const PiecePart& part,
                float* values) {
  const StatePiece state = state_piece(memory, kind, p);
  if (state.weight.data == nullptr) return read_floats(staging, view(state.values, part), values);
  const std::vector<bf16> high = read_bits(staging, view(state.weight, part)),
                          low = read_bits(staging, view(state.values, part));
  const TieWords ties(staging, state.ties, part);
  for (std::int64_t i = 0; i < part.rows * part.columns; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool raised = bit_at(ties.here.data(), element(part, i) - ties.first);
    values[i] = std::bit_cast<float>(join_halves(high[at].bits, low[at].bits, raised));
  }
}

void write_state(Staging& staging, const TrainMemory& memory, StateKind kind, const OwnedPiece& p,
                 const PiecePart& part, const float* values) {
  const StatePiece state = state_piece(memory, kind, p);
  write_floats(staging, view(state.weight.data == nullptr ? state.values : state.weight, part), values);
  if (state.weight.data == nullptr) return;
  const Tensor low = view(state.values, part);
  staging.write(low, [&](void* host, std::int64_t row, std::int64_t rows) {
    const float* const from = values + row * low.columns();
    std::transform(from, from + rows * low.columns(), static_cast<bf16*>(host),
                   [](float x) { return bf16{static_cast<std::uint16_t>(low_half(bits_of(x)))}; });
  });
  TieWords ties(staging, state.ties, part);
  for (std::int64_t i = 0; i < part.rows * part.columns; ++i)
    set_bit(ties.here.data(), element(part, i) - ties.first, raised_tie(bits_of(values[i])));
  ties.write_back(staging);
}

}  // namespace upcycle
