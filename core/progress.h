#pragma once
#include <functional>

namespace upcycle {

// Signs of life from work that other ranks may be waiting for: code that reads, hashes or deletes files calls
// made_progress() per block or file, on any thread. The listener runs on the thread that set it (the main one: only it
// may talk to other ranks), from its own made_progress() and from forward_progress(), which reports progress of other
// threads; so a loop that waits for another thread calls forward_progress() now and then. Both are cheap.
void made_progress();
void forward_progress();
void set_progress_listener(std::function<void()> listener);  // of this thread; null removes it

}  // namespace upcycle
