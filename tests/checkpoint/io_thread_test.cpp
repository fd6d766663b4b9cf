#include "parallel/checkpoint/io_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <stdexcept>

#include "core/error.h"

namespace upcycle {
namespace {

TEST(IoThread, RunsJobsInOrderOnOneOtherThread) {
  IoThread io;
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  std::vector<std::future<void>> jobs;
  for (int i = 0; i < 100; ++i)
    jobs.push_back(io.submit([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
    }));
  for (auto& job : jobs) job.get();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(threads[static_cast<std::size_t>(i)], threads[0]);
  }
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(IoThread, CarriesExceptionsAndGoesOn) {
  IoThread io;
  auto bad = io.submit([] { throw InputError("x.h5: truncated"); });
  bool ran = false;
  io.run([&] { ran = true; });
  EXPECT_TRUE(ran);
  EXPECT_TRUE(finished(bad));
  EXPECT_THROW(bad.get(), InputError);
  EXPECT_THROW(io.run([] { throw std::runtime_error("x"); }), std::runtime_error);
}

TEST(IoThread, FinishedDoesNotWait) {
  IoThread io;
  std::promise<void> gate;
  auto job = io.submit([&] { gate.get_future().wait(); });
  EXPECT_FALSE(finished(job));
  gate.set_value();
  job.wait();
  EXPECT_TRUE(finished(job));
}

TEST(IoThread, EndsAfterWhatWasSubmitted) {
  std::atomic<int> ran = 0;
  {
    IoThread io;
    for (int i = 0; i < 50; ++i) io.submit([&] { ++ran; });  // futures dropped
  }
  EXPECT_EQ(ran, 50);
}

TEST(IoThread, WhatAJobHoldsGoesOnItsThread) {
  struct Witness {
    std::thread::id* where;
    ~Witness() { *where = std::this_thread::get_id(); }
  };
  std::thread::id destroyed, thread;
  IoThread io;
  auto job =
      io.submit([&thread, held = std::make_shared<Witness>(&destroyed)] { thread = std::this_thread::get_id(); });
  job.wait();
  EXPECT_EQ(destroyed, thread);  // though `job` is still there
  destroyed = {};
  auto bad = io.submit([held = std::make_shared<Witness>(&destroyed)] { throw InputError("x"); });
  bad.wait();
  EXPECT_EQ(destroyed, thread);
}

TEST(IoThread, RefusesToWaitForItself) {
  IoThread io;
  EXPECT_THROW(io.run([&] { io.run([] {}); }), Error);
}

}  // namespace
}  // namespace upcycle
