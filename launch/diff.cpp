#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/measure.h"
#include "launch/commands.h"
#include "launch/compared.h"
#include "launch/options.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

// One tensor, compared.
struct Difference {
  const ComparedTensor* tensor;
  bool same_bits = true;
  double distance = 0, norm = 0, allowed = 0;
  std::size_t largest = 0;  // the element that differs most
  float a = 0, b = 0;       // its values

  bool agrees() const { return same_bits || (std::isfinite(distance) && distance <= allowed); }
  double share() const {  // of what is allowed
    if (same_bits) return 0;
    return std::isfinite(distance) && allowed > 0 ? distance / allowed : INFINITY;
  }
};

bool same(float x, float y) { return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y); }

Difference compare(const ComparedTensor& tensor, const std::vector<float>& a, const std::vector<float>& b) {
  Difference d{&tensor};
  // An infinity or NaN that only one side has is a difference; one that both have must not hide the others.
  std::vector<float> finite = a;
  std::ranges::replace_if(
      finite, [](float v) { return !std::isfinite(v); }, 0.0f);
  d.norm = norm(finite);
  d.same_bits = std::ranges::equal(a, b, same);
  if (d.same_bits) return d;
  std::vector<float> x = a, y = b;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (same(a[i], b[i])) x[i] = y[i] = 0;
  d.distance = distance(x, y);
  double most = -1;
  for (std::size_t i = 0; i < a.size() && !std::isnan(most); ++i) {
    const double apart = std::abs(double(a[i]) - b[i]);
    if (apart <= most || same(a[i], b[i])) continue;
    most = apart, d.largest = i, d.a = a[i], d.b = b[i];
  }
  return d;
}

using Tensors = std::vector<ComparedTensor>;

std::map<std::string, const ComparedTensor*> by_name(const Tensors& tensors) {
  std::map<std::string, const ComparedTensor*> all;
  for (const ComparedTensor& t : tensors) all[t.name] = &t;
  return all;
}

std::string describe(const ComparedTensor& t) { return fmt::format("{} {}", t.type, Json(t.shape).dump()); }

// InputError unless both have the same tensors.
void check_alike(const Tensors& as, const Tensors& bs, const std::string& a_name, const std::string& b_name) {
  const auto missing = [](const Tensors& tensors, const Tensors& others, const std::string& in,
                          const std::string& has) {
    const auto found = by_name(tensors);
    for (const ComparedTensor& t : others)
      if (found.count(t.name) == 0)
        input_error("{}: found no tensor {}, which {} has; compare dumps of one model and batch, or two models", in,
                    t.name, has);
  };
  missing(bs, as, b_name, a_name);
  missing(as, bs, a_name, b_name);
  const auto partners = by_name(bs);
  for (const ComparedTensor& a : as)
    if (const ComparedTensor& b = *partners.at(a.name); a.shape != b.shape || a.type != b.type)
      input_error("{}: {}: found {}, expected {} as in {}; compare one model and batch in one dtype", b_name, a.name,
                  describe(b), describe(a), a_name);
}

std::vector<Difference> compare_all(const Tensors& as, const Tensors& bs, double relative) {
  const auto partners = by_name(bs);
  std::vector<Difference> all;
  std::map<std::string, double> squares;  // sum of squares per kind
  for (const ComparedTensor& a : as) {
    all.push_back(compare(a, a.read(), partners.at(a.name)->read()));
    if (!a.integer()) squares[a.kind] += all.back().norm * all.back().norm;
  }
  for (Difference& d : all)
    d.allowed = d.tensor->integer() ? 0 : allowed_distance(d.norm, std::sqrt(squares[d.tensor->kind]), relative);
  return all;
}

Json place_of(const Difference& d) {
  Json place = Json::array();
  auto rest = static_cast<std::int64_t>(d.largest);
  for (std::size_t i = d.tensor->shape.size(); i-- > 0; rest /= d.tensor->shape[i])
    place.insert(place.begin(), rest % d.tensor->shape[i]);
  return place;
}

Json describe(const Difference& d) {
  return {{"name", d.tensor->name},
          {"shape", d.tensor->shape},
          {"type", d.tensor->type},
          {"distance", d.distance},
          {"norm", d.norm},
          {"allowed", d.allowed},
          {"largest_at", place_of(d)},
          {"a", d.a},
          {"b", d.b}};
}

std::string text(const Difference& d) {
  return fmt::format("{} {}: ||a - b|| = {:.3g}, {:.3g} is allowed, ||a|| = {:.3g}; most at {}: {:.9g} and {:.9g}",
                     d.tensor->name, Json(d.tensor->shape).dump(), d.distance, d.allowed, d.norm, place_of(d).dump(),
                     d.a, d.b);
}

}  // namespace

int run_diff(const Arguments& arguments) {
  std::string a_name, b_name;
  double relative = kMeasureRelative;
  bool json = false;
  Options options(
      "diff",
      "The first tensor, in the order of the step, in which B differs from A, and by how much, compared in fp32. Exit "
      "code 0: none, 1: there is one. A tensor differs where ||a - b|| > R ||a|| + R/100 ||all a of its kind||.");
  options.positional("A", a_name, "a dump (debug.dump), a checkpoint, a Hugging Face directory or a safetensors file");
  options.positional("B", b_name, "another");
  options.option("--relative", relative, "R; two layouts agree to 1e-5 in fp32, 2e-2 is usual in bf16");
  options.flag("--json", json, "print one JSON object: tensors, same_bits, differ, first (null: none), furthest");
  options.example("upcycle diff a b", "the first tensor in which the dumps of two runs differ");
  if (!options.parse(arguments)) return 0;
  if (!(relative >= 0)) input_error("command line: --relative: found {}, expected at least 0", relative);
  const Tensors as = open_compared(a_name), bs = open_compared(b_name);
  check_alike(as, bs, a_name, b_name);
  const std::vector<Difference> all = compare_all(as, bs, relative);

  const auto first = std::ranges::find_if(all, [](const Difference& d) { return !d.agrees(); });
  const auto differ = std::ranges::count_if(all, [](const Difference& d) { return !d.agrees(); });
  const auto same = std::ranges::count_if(all, &Difference::same_bits);
  const auto furthest = std::ranges::max_element(all, {}, &Difference::share);
  if (json) {
    fmt::print("{}\n", Json{{"tensors", all.size()},
                            {"same_bits", same},
                            {"differ", differ},
                            {"first", first == all.end() ? Json() : describe(*first)},
                            {"furthest", same == std::ssize(all) ? Json() : describe(*furthest)}}
                           .dump());
  } else if (first != all.end()) {
    fmt::print("{}\n{} of {} tensors differ, {} have the same bits; this is the first\n", text(*first), differ,
               all.size(), same);
  } else {
    fmt::print("{} tensors agree, {} have the same bits{}\n", all.size(), same,
               same == std::ssize(all) ? "" : "; furthest is " + text(*furthest));
  }
  return first == all.end() ? 0 : 1;
}

}  // namespace upcycle
