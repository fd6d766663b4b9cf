#include "parallel/train/faults.h"

#include <bit>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "parallel/model/weights.h"
#include "parallel/train/owned_state.h"

namespace upcycle {
namespace {

template <class T>
T named(const std::string& word, std::initializer_list<std::pair<const char*, T>> names, const std::string& fault) {
  std::string all;
  for (const auto& [name, value] : names) {
    if (word == name) return value;
    all += all.empty() ? name : std::string(", ") + name;
  }
  input_error("debug.inject: found '{}' in '{}', expected one of {}", word, fault, all);
}

Fault parse_fault(const std::string& text) {
  using Kind = Fault::Kind;
  using Value = Fault::Value;
  std::istringstream in(text);
  std::string kind, value, rest;
  Fault f;
  if (!(in >> kind >> f.tensor >> f.rank >> f.first >> f.last >> value) || in >> rest)
    input_error("debug.inject: found '{}', expected KIND TENSOR RANK FIRST LAST VALUE", text);
  f.kind = named<Kind>(kind,
                       {{"parameter", Kind::Parameter},
                        {"moment", Kind::Moment},
                        {"gradient", Kind::Gradient},
                        {"activation", Kind::Activation}},
                       text);
  f.value = named<Value>(
      value, {{"nan", Value::Nan}, {"inf", Value::Inf}, {"once", Value::Once}, {"lasting", Value::Lasting}}, text);
  return f;
}

}  // namespace

std::vector<Fault> parse_faults(const Config& config) {
  std::vector<Fault> faults;
  std::istringstream in(config.debug.inject);
  const ParamTable table = make_global_table(config.model);
  for (std::string text; std::getline(in, text, ';');) {
    faults.push_back(parse_fault(text));
    const Fault& f = faults.back();
    if (f.kind != Fault::Kind::Activation && table.find(f.tensor) == nullptr)
      input_error("debug.inject: found no parameter '{}', expected a name that `upcycle inspect` lists", f.tensor);
  }
  return faults;
}

Faults::Faults(const Config& config, int rank, Device& device, Stream& stream)
    : faults_(parse_faults(config)), device_(device), stream_(stream) {
  std::erase_if(faults_, [&](const Fault& f) { return f.rank != rank; });
}

template <class F>
void Faults::for_each(Fault::Kind kind, const F& f) {
  for (Fault& fault : faults_)
    if (fault.kind == kind && begun_ >= fault.first && begun_ <= fault.last) f(fault);
}

void Faults::cause(Fault& fault, const Tensor& x, std::int64_t element) {
  if (fault.value == Fault::Value::Once && fault.fired > 0) return;
  ++fault.fired;
  const std::size_t size = size_of(x.dtype);
  char* const at = static_cast<char*>(x.data) + static_cast<std::size_t>(element) * size;
  std::uint32_t bits = 0;
  device_.copy_to_host(stream_, &bits, at, size);
  stream_.synchronize();
  const unsigned shift = size == 2 ? 16 : 0;  // of a bf16, to where its bits are in an fp32
  bits <<= shift;
  if (fault.value == Fault::Value::Nan)
    bits = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::quiet_NaN());
  else if (fault.value == Fault::Value::Inf)
    bits = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::infinity());
  else
    bits ^= std::uint32_t{1} << (22 - fault.fired % 6);  // of the mantissa: the value stays finite
  bits >>= shift;
  device_.copy_from_host(stream_, at, &bits, size);
  stream_.synchronize();
}

void Faults::begin_step(Trainer& t) {
  begun_ = t.consumed_samples;
  for_each(Fault::Kind::Parameter, [&](Fault& f) {
    t.optimizer.arrivals->wait_all(stream_);
    if (const ParamRow* row = t.table().find(f.tensor))
      cause(f, view_row(*row, t.memory.weights.dense, t.memory.weights.expert), row->size() / 2);
  });
  for_each(Fault::Kind::Moment, [&](Fault& f) {
    for (const OwnedPiece& p : t.optimizer.updated)
      if (p.row->name == f.tensor)
        return cause(f, state_piece(t.memory, StateKind::Moment1, p).values, p.part.size() / 2);
  });
}

void Faults::gradients_complete(Trainer& t, std::int64_t layer) {
  for_each(Fault::Kind::Gradient, [&](Fault& f) {
    const ParamRow* row = t.table().find(f.tensor);
    if (row != nullptr && t.table().bucket_of(*row).layer == layer)
      cause(f, gradient_place(t.table(), t.memory, *row), row->size() / 2);
  });
}

void Faults::activation(std::int64_t layer, const char* name, const Tensor& x) {
  for_each(Fault::Kind::Activation, [&](Fault& f) {
    if (f.tensor == (layer < 0 ? "" : fmt::format("layers.{}.", layer)) + name) cause(f, x, x.columns() / 2);
  });
}

}  // namespace upcycle
