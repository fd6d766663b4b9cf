#include "parallel/checkpoint/hdf5_thread.h"

namespace upcycle {

IoThread& hdf5_thread() {
  static IoThread thread;
  return thread;
}

}  // namespace upcycle
