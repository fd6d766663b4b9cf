#include "parallel/comm/comm_dry.h"

#include <algorithm>
#include <cstring>

#include "parallel/comm/collective_checks.h"

namespace upcycle {
namespace {

class DryCommunicator final : public Communicator {
 public:
  DryCommunicator(std::string name, int rank, int size, CollectiveTable& table)
      : name_(std::move(name)), rank_(rank), size_(size), table_(table) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  Event all_reduce(const Tensor& data) override {
    check_all_reduce(*this, data);
    return record("all_reduce", data.bytes());
  }
  Event reduce_scatter(const Tensor& out, const Tensor& in) override {
    check_reduce_scatter(*this, out, in);
    return record("reduce_scatter", in.bytes());
  }
  Event all_gather(const Tensor& out, const Tensor& in) override {
    check_all_gather(*this, out, in);
    if (in.dtype == DType::I32)
      for (int r = 0; r < size_; ++r) copy(static_cast<char*>(out.data) + static_cast<std::size_t>(r) * in.bytes(), in);
    return record("all_gather", in.bytes());
  }
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override {
    check_all_to_all_v(*this, out, recv_counts, in, send_counts);
    std::int64_t rows = 0;
    for (const std::int64_t n : send_counts) rows += n;
    return record("all_to_all_v", static_cast<std::size_t>(rows * in.columns()) * size_of(in.dtype));
  }
  void barrier() override { record("barrier", 0); }

  double max_of(double value) override {
    record("max_of", sizeof value);
    return value;
  }
  double sum_of(double value) override {
    record("sum_of", sizeof value);
    return value * size_;
  }
  std::string broadcast_text(const std::string& text, int root) override {
    check_root(*this, root);
    record("broadcast_text", rank_ == root ? text.size() : 0);
    return text;
  }
  std::string gather_text(const std::string& text) override {
    record("gather_text", text.size());
    std::string all;
    for (int r = 0; r < size_; ++r) all += text;
    return all;
  }

 private:
  static void copy(void* to, const Tensor& from) {
    if (to != from.data && from.bytes() != 0) std::memcpy(to, from.data, from.bytes());
  }
  Event record(const char* op, std::size_t bytes) {
    table_.record(name_, op, bytes);
    return {};
  }

  std::string name_;
  int rank_, size_;
  CollectiveTable& table_;
};

}  // namespace

void CollectiveTable::record(const std::string& group, const char* op, std::size_t bytes) {
  const auto same = [&](const CollectiveCount& c) { return c.group == group && c.op == op; };
  auto at = std::find_if(counts.begin(), counts.end(), same);
  if (at == counts.end()) at = counts.insert(at, {group, op, 0, 0});
  ++at->calls;
  at->bytes += bytes;
}

Mesh make_dry_mesh(const Layout& layout, int rank, CollectiveTable& table) {
  Mesh mesh;
  mesh.layout = layout;
  mesh.rank = rank;
  mesh.at = coordinates_of(layout, rank);
  const auto group = [&](const char* name, int at, int size) {
    return std::make_shared<DryCommunicator>(name, at, size, table);
  };
  mesh.world = group("world", rank, layout.world);
  mesh.tp = group("tp", mesh.at.tp, layout.tp);
  mesh.dp = group("dp", mesh.at.dp, layout.dp);
  mesh.ep = group("ep", mesh.at.ep, layout.ep);
  mesh.edp = group("edp", mesh.at.edp, layout.edp);
  return mesh;
}

}  // namespace upcycle
