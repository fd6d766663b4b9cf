#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace upcycle {

// The one thread of a rank that touches HDF5 (Debian's library is not thread-safe), reads included. It makes no MPI
// calls. Jobs run one after another in the order of submission; an Hdf5File must also be destroyed by a job.
class IoThread {
 public:
  IoThread();
  ~IoThread();  // runs what was submitted, then joins
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  // get() on the future waits and rethrows what the job threw. Dropping the future does not wait.
  std::future<void> submit(std::function<void()> job);
  // submit and wait. Not from a job: it would wait for itself.
  void run(std::function<void()> job);

 private:
  void loop();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> jobs_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all other members
};

// Waits for the job, forwarding progress (core/progress.h), and rethrows what it threw.
void wait_for_job(std::future<void>& job);

// True once the job has run (or thrown); never waits. For polling at step boundaries.
bool finished(const std::future<void>& job);

}  // namespace upcycle
