#include "launch/doctor_verdict.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace upcycle {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

RankHealth health_of(const nlohmann::ordered_json& j) {
  RankHealth h;
  h.rank = j["rank"];
  h.host = j["host"];
  h.gpu = j["device"] == "cuda";
  h.threads = j["threads"];
  h.cores = j["cores"];
  h.ranks_on_host = j["ranks_on_host"];
  h.host_cores = j["host_cores"];
  h.memory = j["memory_bytes"];
  h.product_flops = j["product_flops"];
  h.sustained = j["product_sustained"];
  h.link = j["link_bytes_per_s"];
  h.all_to_all = j["all_to_all_bytes_per_s"];
  h.write = j["write_bytes_per_s"];
  h.folder_free = j["file_system_free_bytes"];
  h.clock_offset = j["clock_offset_s"];
  h.products_right = j["products_right"];
  h.exchange_right = j["exchange_right"];
  h.folder_failure = j["folder_failure"];
  return h;
}

std::size_t judge(std::vector<RankHealth>& ranks, double least_share) {
  constexpr double kLeastWrite = 10e6, kLeastFree = 1 << 30;  // bytes per second, bytes
  std::vector<double> products, links;
  for (const RankHealth& r : ranks) products.push_back(r.product_flops), links.push_back(r.link);
  const double product = median(products), link = median(links);
  std::size_t ill = 0;
  for (RankHealth& r : ranks) {
    std::string fails, crawls;
    const auto add = [](std::string& to, const std::string& what) { to += (to.empty() ? "" : "; ") + what; };
    if (!r.products_right) add(fails, "matrix products are wrong");
    if (!r.exchange_right) add(fails, "what other ranks sent arrived as something else");
    if (!r.folder_failure.empty()) add(fails, r.folder_failure);
    if (r.folder_failure.empty() && r.folder_free < kLeastFree)
      add(fails, fmt::format("{:.0f} MiB are free to save runs in", r.folder_free / (1 << 20)));
    if (r.product_flops < least_share * product)
      add(crawls, fmt::format("{:.0f} % of the median rank's products", 100 * r.product_flops / product));
    if (r.link < least_share * link)
      add(crawls, fmt::format("{:.0f} % of the median rank's link", 100 * r.link / link));
    if (r.sustained < least_share)
      add(crawls, fmt::format("{:.0f} % of its speed is left under load", 100 * r.sustained));
    if (r.folder_failure.empty() && r.write < kLeastWrite * least_share)
      add(crawls, fmt::format("writes {:.1f} MB/s", r.write / 1e6));
    if (!r.gpu && r.threads > r.cores) add(crawls, fmt::format("{} threads on {} cores", r.threads, r.cores));
    if (!r.gpu && r.threads * r.ranks_on_host > r.host_cores)
      add(crawls,
          fmt::format("{} ranks of {} threads on a host of {} cores", r.ranks_on_host, r.threads, r.host_cores));
    r.verdict = !fails.empty() ? "fails: " + fails : !crawls.empty() ? "crawls: " + crawls : "well";
    ill += r.verdict == "well" ? 0 : 1;
  }
  return ill;
}

std::vector<std::string> differences(const std::vector<nlohmann::ordered_json>& ranks) {
  std::vector<std::string> notes;
  for (const char* key : {"mpi", "hdf5", "instructions", "gpu", "file_system"})
    for (const auto& rank : ranks)
      if (rank[key] != ranks.front()[key]) {
        notes.push_back(fmt::format("{} of rank {} is {}, of rank 0 {}", key, rank["rank"].get<int>(), rank[key].dump(),
                                    ranks.front()[key].dump()));
        break;
      }
  for (const auto& rank : ranks)
    if (const double offset = rank["clock_offset_s"]; std::abs(offset) > 1) {
      notes.push_back(fmt::format("the clock of rank {} is {:+.1f} s from rank 0's: logs will not line up",
                                  rank["rank"].get<int>(), offset));
      break;
    }
  return notes;
}

}  // namespace upcycle
