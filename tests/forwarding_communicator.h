#pragma once
#include "parallel/comm/communicator.h"

namespace upcycle::test {

// Passes every call on: tests that watch or change a call of a group override that one.
class ForwardingCommunicator : public Communicator {
 public:
  explicit ForwardingCommunicator(std::shared_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  const std::string& name() const override { return inner_->name(); }
  Event all_reduce(const Tensor& data) override { return inner_->all_reduce(data); }
  Event reduce_scatter(const Tensor& out, const Tensor& in) override { return inner_->reduce_scatter(out, in); }
  Event all_gather(const Tensor& out, const Tensor& in) override { return inner_->all_gather(out, in); }
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override {
    return inner_->all_to_all_v(out, recv_counts, in, send_counts);
  }
  void barrier() override { inner_->barrier(); }
  double max_of(double value) override { return inner_->max_of(value); }
  double sum_of(double value) override { return inner_->sum_of(value); }
  std::string broadcast_text(const std::string& text, int root) override { return inner_->broadcast_text(text, root); }
  std::string gather_text(const std::string& text) override { return inner_->gather_text(text); }

 protected:
  Communicator& inner() { return *inner_; }

 private:
  std::shared_ptr<Communicator> inner_;
};

}  // namespace upcycle::test
