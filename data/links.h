#pragma once
#include <string>

namespace upcycle {

// InputError where folder/name is a symbolic link that ends outside of the folder. Hugging Face's cache may be: there
// snapshots/X/NAME leads to blobs/HASH beside snapshots.
void refuse_link_outside(const std::string& folder, const std::string& name);

}  // namespace upcycle
