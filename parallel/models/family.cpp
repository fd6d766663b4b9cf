#include "parallel/models/family.h"

#include "core/suggest.h"

namespace upcycle {
namespace {

// "a", "a or b", "a, b or c".
template <class Text>
std::string listed(const std::string& last, const Text& text_of) {
  const auto all = all_families();
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i)
    text += (i == 0 ? "" : i + 1 < all.size() ? ", " : last) + text_of(*all[i]);
  return text;
}

}  // namespace

const Family* find_family(const std::string& model_type) {
  for (const Family* f : all_families())
    if (f->model_type == model_type) return f;
  return nullptr;
}

std::string family_types() {
  return listed(" or ", [](const Family& f) { return quote_text(f.model_type); });
}

std::string family_names(const std::string& last) {
  return listed(last, [](const Family& f) { return std::string(f.name); });
}

}  // namespace upcycle
