#pragma once
#include <functional>
#include <string>

namespace upcycle {

// What `work` returns, done by a copy of this process that can do nothing but read files and compute: it has none of
// this process's open files and shared memory, may not write, connect, signal or start anything (seccomp, where the
// kernel has it), gets 1 GiB of memory and two minutes of a processor. For libraries that read files from elsewhere:
// what such a file makes them do ends with the copy. The caller must not believe the result more than it believes the
// file.
//
// `what` names the work in messages: "x.h5: listing the datasets". InputError: the InputError of `work`, in one line,
// or that the copy crashed or took too much. Error: no process can be had.
//
// The calling thread alone exists in the copy: `work` must not wait for another one, or use what another may be using.
// At most max_bytes are returned.
std::string without_rights(const std::string& what, std::size_t max_bytes, const std::function<std::string()>& work);

}  // namespace upcycle
