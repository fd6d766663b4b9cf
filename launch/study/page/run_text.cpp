#include "launch/study/page/run_text.h"

#include <fmt/core.h>

namespace upcycle::study_page {

using charts::for_people;
using charts::Unit;

std::string run_text(const View& v, const Json& run) {
  std::string text = words(run, "name") + "\n" + v.name(grid_of(run));
  if (number(run, "budget") > 0) text += ", budget " + v.budget(number(run, "budget"));
  text += fmt::format("\nseed {}, rate {}\n{} tokens, {}, {}", for_people(number(run, "seed"), Unit::Number),
                      for_people(number(run, "learning_rate"), Unit::Number),
                      for_people(number(run, "tokens"), Unit::Count), for_people(number(run, "flops"), Unit::Flops),
                      for_people(number(run, "wall_seconds"), Unit::Seconds));
  const Json& loss = part(run, "loss");
  if (loss.is_object())
    for (const auto& [set, value] : loss.items())
      text +=
          fmt::format("\nloss on {}: {}", set, value.is_number() ? fmt::format("{:.4f}", value.get<double>()) : "–");
  return text;
}

}  // namespace upcycle::study_page
