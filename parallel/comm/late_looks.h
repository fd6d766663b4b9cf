#pragma once

namespace upcycle {

// Seconds for which this process had not looked when it found a transfer ended that it waited for. It may have been
// ready to go on all that while: next to nothing where it has a core, as long as its pauses where it is stopped,
// throttled or waits for a core. They are part of its waits (record_wait), but the others wait for them.
void record_late_look(double seconds);
double late_look_seconds();

}  // namespace upcycle
