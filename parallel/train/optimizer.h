#pragma once
#include <memory>
#include <vector>

#include "core/device.h"
#include "kernels/op_types.h"
#include "parallel/comm/mesh.h"
#include "parallel/model/arrivals.h"
#include "parallel/train/param_groups.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

class Ops;
struct Offload;  // offload.h

struct OwnedRange {
  std::int64_t begin, end;  // elements
};
struct BucketSum {
  const Bucket* bucket;
  ParamGroup group;
  Event event;
};

// ZeRO (arXiv 1910.02054) on one rank: gradients are summed over replicas into the owner's part, the owner updates
// its fp32 masters, and the rounded parameters are gathered back.
struct Optimizer {
  const ParamTable* table;
  Arrivals* arrivals;  // the model's: what is gathered
  const Mesh* mesh;
  Device* device;
  Ops* ops;
  Stream* stream;
  Workspace workspace;
  TrainConfig config;
  std::vector<OwnedPiece> updated;      // what the rule updates here: its pieces, copies of tp-replicated rows too
  std::vector<OwnedPiece> counted;      // what it owns: each logical element on one rank of the mesh
  std::vector<std::int64_t> row_steps;  // updates so far, per row of the table
  std::vector<DrawStream> draws;        // per row: that the streams are drawn from which round its moments
  std::vector<std::uint8_t> frozen;     // per row of the table
  std::vector<RowRate> rates;           // per row of the table
  std::vector<OwnedRange> replicated;   // of the dense buffer, by offset: owned parts of rows replicated over tp
  std::vector<BucketSum> sums;          // in flight: of buckets being reduced
  std::vector<Event> sums_over_tp;      // in flight
  std::vector<OwnedPiece> biases;       // of the routers, whose masters balancing moves (router_bias.h)
  std::shared_ptr<Offload> offload;     // null: masters and moments lie, and are updated, where the gradients are

  // The ranks that hold copies of a group's parameters: dp or edp.
  Communicator& replicas(ParamGroup g) const { return g == ParamGroup::Dense ? *mesh->dp : *mesh->edp; }
  std::size_t index_of(const OwnedPiece& p) const { return static_cast<std::size_t>(p.row - table->rows.data()); }
};

Optimizer make_optimizer(const ParamTable& table, Arrivals& arrivals, const Mesh& mesh, Device& device, Ops& ops,
                         Stream& stream, Workspace workspace, const Config& config);

// Throws InputError for a pattern of train.freeze that matches no parameter of the model.
void check_freeze(const ModelConfig& model, const std::vector<std::string>& patterns);

// Copies the parameters into the masters (a fresh start from random weights).
void masters_from_weights(Optimizer& o, TrainMemory& memory);

// Throws WrongNumber on all ranks, naming the first parameter with a copy that differs in any bit (compares hashes over
// dp, edp and, for replicated rows with their masters and moments, tp), and the rank. A collective call of the world.
void check_replicas(Optimizer& o, const TrainMemory& memory);

}  // namespace upcycle
