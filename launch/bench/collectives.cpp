#include "launch/bench/collectives.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/arena.h"
#include "launch/check_fits.h"
#include "parallel/comm/agree.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;

struct Collective {
  const char* name;
  double bus;                   // of the message's bytes, what a rank's link carries
  std::function<Event()> call;  // one message
};

// On one message of n elements (a multiple of the group's size), all of `in`.
std::vector<Collective> collectives(Communicator& group, const Tensor& out, const Tensor& in) {
  const std::int64_t ranks = group.size(), part = in.size() / ranks;
  const double others = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  const Tensor rows_in = in.reshaped({ranks, part}), rows_out = out.reshaped({ranks, part});
  const std::vector<std::int64_t> one_each(static_cast<std::size_t>(ranks), 1);
  return {
      {"all_reduce", 2 * others, [=, &group] { return group.all_reduce(in); }},
      {"reduce_scatter", others, [=, &group] { return group.reduce_scatter(out.slice_rows(0, part), in); }},
      {"all_gather", others, [=, &group] { return group.all_gather(out, in.slice_rows(0, part)); }},
      {"all_to_all_v", others, [=, &group] { return group.all_to_all_v(rows_out, one_each, rows_in, one_each); }},
  };
}

// Seconds per call, of the slowest rank: the fastest of three rounds, each of enough calls to be timed.
double time_of(const Backend& b, Communicator& world, const std::function<Event()>& call, double seconds) {
  const auto round = [&](int calls) {
    world.barrier();
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) b.stream->wait(call());
    b.stream->synchronize();
    return world.max_of(std::chrono::duration<double>(Clock::now() - start).count()) / calls;
  };
  double best = std::min(round(1), round(1));  // the first makes connections
  const int calls = static_cast<int>(std::clamp(seconds / 4 / best, 1.0, 1000.0));
  for (int i = 0; i < 3; ++i) best = std::min(best, round(calls));
  return best;
}

// The mesh's groups of several ranks, one of each size.
std::vector<Communicator*> groups_of(const Mesh& mesh) {
  std::vector<Communicator*> groups;
  for (Communicator* group : {mesh.world.get(), mesh.tp.get(), mesh.dp.get(), mesh.ep.get(), mesh.edp.get()}) {
    const auto same = [&](const Communicator* other) { return other->size() == group->size(); };
    if (group->size() > 1 && std::none_of(groups.begin(), groups.end(), same)) groups.push_back(group);
  }
  return groups;
}

}  // namespace

void bench_collectives(const Backend& backend, const Mesh& mesh, const CollectiveBench& bench) {
  const auto world = static_cast<std::size_t>(mesh.layout.world);
  const auto elements = [&](std::size_t bytes) {  // of a message that every group's ranks divide
    return static_cast<std::int64_t>(std::max<std::size_t>(1, bytes / size_of(bench.dtype) / world) * world);
  };
  Arena arena("messages");
  Tensor in, out;
  const auto layout = [&] {
    in = arena.take(bench.dtype, {elements(bench.largest)});
    out = arena.take(bench.dtype, {elements(bench.largest)});
  };
  layout();
  agree_or_throw(*mesh.world, [&] { check_fits_machine(backend, {{"messages", arena.high_water()}}); });
  arena.allocate(*backend.device);
  layout();

  const bool prints = mesh.rank == 0;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (prints && !bench.json)
    fmt::print("| group | ranks | collective | bytes | us | GB/s | bus GB/s |{}\n|--|--|--|--|--|--|--|{}\n",
               bench.link > 0 ? " of the link |" : "", bench.link > 0 ? "--|" : "");
  for (Communicator* group : groups_of(mesh)) {
    for (std::size_t bytes = std::min(bench.largest, std::size_t{64} << 10);;
         bytes = std::min(bytes * 16, bench.largest)) {
      const std::int64_t n = elements(bytes);
      const Tensor message = in.slice_rows(0, n);
      for (const Collective& one : collectives(*group, out.slice_rows(0, n), message)) {
        const double t = time_of(backend, *mesh.world, one.call, bench.seconds);
        const double rate = static_cast<double>(message.bytes()) / t, bus = rate * one.bus;
        if (!prints) continue;
        if (bench.json)
          rows.push_back({{"group", group->name()},
                          {"ranks", group->size()},
                          {"collective", one.name},
                          {"bytes", message.bytes()},
                          {"us", t * 1e6},
                          {"gb_s", rate / 1e9},
                          {"bus_gb_s", bus / 1e9}});
        else
          fmt::print("| {} | {} | {} | {} | {:.1f} | {:.2f} | {:.2f} |{}\n", group->name(), group->size(), one.name,
                     message.bytes(), t * 1e6, rate / 1e9, bus / 1e9,
                     bench.link > 0 ? fmt::format(" {:.0f} % |", 100 * bus / bench.link) : "");
      }
      if (bytes == bench.largest) break;
    }
  }
  if (prints && bench.json) fmt::print("{}\n", nlohmann::ordered_json{{"collectives", rows}}.dump());
}

}  // namespace upcycle
