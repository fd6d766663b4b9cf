#include "parallel/checkpoint/io_thread.h"

#include <csignal>
#include <utility>

#include "core/check.h"
#include "core/progress.h"

namespace upcycle {

IoThread::IoThread() : thread_([this] { loop(); }) {}

IoThread::~IoThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::future<void> IoThread::submit(std::function<void()> job) {
  // The future keeps the task alive. What the job captured must be destroyed on this thread, once it has run: it may
  // hold HDF5 handles, or the snapshot's memory.
  std::packaged_task<void()> task([job = std::move(job)]() mutable { std::exchange(job, nullptr)(); });
  std::future<void> future = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    UPCYCLE_CHECK(!stopping_, "a job was submitted to an I/O thread that is ending");
    jobs_.push_back(std::move(task));
  }
  changed_.notify_one();
  return future;
}

void IoThread::run(std::function<void()> job) {
  UPCYCLE_CHECK(std::this_thread::get_id() != thread_.get_id(), "IoThread::run from one of its own jobs");
  std::future<void> done = submit(std::move(job));
  wait_for_job(done);
}

void wait_for_job(std::future<void>& job) {
  while (job.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) forward_progress();
  job.get();
}

void IoThread::loop() {
  // Asynchronous signals stay the main thread's and never interrupt a write.
  sigset_t signals;
  sigfillset(&signals);
  for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&signals, crash);
  pthread_sigmask(SIG_SETMASK, &signals, nullptr);  // fails only on a wrong first argument
  while (true) {
    std::packaged_task<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      task = std::move(jobs_.front());
      jobs_.pop_front();
    }
    task();
  }
}

bool finished(const std::future<void>& job) {
  return job.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace upcycle
