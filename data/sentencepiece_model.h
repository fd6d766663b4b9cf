#pragma once
#include <string>
#include <string_view>

namespace upcycle {

// What sentencepiece believes without a look: the precompiled tables of its normalizers, a double array
// (github.com/s-yata/darts-clone) followed by the texts to which its values point. A file made by hand can lead it out
// of both, into any memory. InputError for a text that is not a protobuf message, for a table that leads outside, and
// for one with more matches of one text than the library has room for. All else of the file is checked by the library.
void check_sentencepiece_model(std::string_view model, const std::string& path);

}  // namespace upcycle
