#pragma once
#include <functional>

namespace upcycle {

// Signs of life of work that others may wait for: reading, hashing and deleting files call made_progress() for every
// block or file, on whatever thread. The thread that set a listener (the main one: it alone may talk to other ranks)
// calls it from its own made_progress(), and from forward_progress() for what other threads made since; so a wait for
// another thread's work calls forward_progress() now and then. Both are cheap.
void made_progress();
void forward_progress();
void set_progress_listener(std::function<void()> listener);  // of this thread; null: none any more

}  // namespace upcycle
