#include "core/plain_text.h"

namespace upcycle {

std::string plain_text(const std::string& error) {
  const std::size_t place = error.rfind(" [");
  if (place == error.npos || !error.ends_with(']') || error.find(" failed at ", place) == error.npos) return error;
  return error.substr(0, place);
}

}  // namespace upcycle
