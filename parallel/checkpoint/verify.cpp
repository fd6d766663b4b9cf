#include "parallel/checkpoint/verify.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/path_error.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/comm/agree.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

// `damage`: what is wrong, "": nothing. What it throws says that this can not be told.
Verdict judge(const std::function<std::string()>& damage) {
  try {
    const std::string found = with_path_errors(damage);
    return found.empty() ? Verdict{} : Verdict{Verdict::Kind::Damaged, found};
  } catch (const InputError& e) {
    return {Verdict::Kind::Unreadable, e.what()};
  } catch (const Error& e) {  // an I/O error
    return {Verdict::Kind::Unreadable, e.what()};
  }
}

Verdict agreed(Communicator& world, const Verdict& mine) {
  for (const Verdict::Kind kind : {Verdict::Kind::Unreadable, Verdict::Kind::Damaged})
    if (const auto reason =
            first_failure(world, mine.kind == kind ? std::optional(mine.reason) : std::optional<std::string>()))
      return {kind, *reason};
  return {};
}

}  // namespace

Verdict verify_step(const std::string& folder, Communicator& world) {
  const std::string path = folder + "/" + manifest_name;
  const bool root = world.rank() == 0;
  std::string text;
  Verdict v = agreed(world, judge([&]() -> std::string {
                       if (!root) return "";
                       if (!fs::exists(path))
                         return fmt::format("{}: found no such file, expected one in every step's folder", path);
                       text = read_manifest_text(folder);
                       return damage_of_manifest(text, path);
                     }));
  if (!v.intact()) return v;
  text = world.broadcast_text(text, 0);
  Manifest manifest;
  v = agreed(world, judge([&] {
               manifest = parse_manifest(text, path);
               return std::string();
             }));
  if (!v.intact()) return v;

  int bad = -1;
  const auto damage_of = [&](int i) {
    return damage_of_file(folder, manifest, manifest.files[static_cast<std::size_t>(i)], true);
  };
  const Verdict mine = judge([&]() -> std::string {
    for (int i = 0; i < static_cast<int>(manifest.files.size()); ++i) {
      if (rank_that_hashes(manifest, i, world.size()) != world.rank()) continue;
      std::string found = damage_of(bad = i);
      if (!found.empty()) return found;
    }
    return "";
  });
  v = agreed(world, mine);
  if (v.kind != Verdict::Kind::Damaged) return v;
  const int worst = static_cast<int>(world.max_of(mine.kind == Verdict::Kind::Damaged ? bad : -1));
  return agreed(world, judge([&]() -> std::string {
                  if (!root) return "";
                  if (mine.kind == Verdict::Kind::Damaged) return mine.reason;
                  std::string found = damage_of(worst);
                  if (found.empty())
                    input_error(
                        "{}/{}: rank 0 finds it whole, another rank does not ({}); look at that host's mount, "
                        "memory and disk",
                        folder, manifest.files[static_cast<std::size_t>(worst)].name, v.reason);
                  return found;
                }));
}

namespace {

// On rank 0: what is to be tried, newest first, one name per line.
std::string steps_to_try(const std::string& run_dir, const Latest& latest) {
  std::vector<std::string> steps = published_steps(run_dir);
  // Newer ones belong to training that was abandoned by hand.
  if (!latest.step.empty()) {
    const std::vector<std::string> newer = newer_steps(run_dir);
    steps.resize(steps.size() - newer.size());
    const bool there = !steps.empty() && steps.back() == latest.step;
    if (!there && !latest.checked)
      input_error("{}/{}: found {}, expected a step folder of that name; write another step's name there", run_dir,
                  latest_name, latest.step);
    if (!there) log_warn("{}/{}: is gone, though {} names it", run_dir, latest.step, latest_name);
  } else if (!latest.damage.empty()) {
    log_warn("{}", latest.damage);
  } else if (!steps.empty()) {
    log_warn("{}/{}: found no such file beside {}, expected the newest step's name", run_dir, latest_name,
             steps.back());
  }
  if (steps.empty() && (!latest.step.empty() || !latest.damage.empty()))
    input_error(
        "{}: found no step in it, expected the one that {} names; copy one back, or choose another "
        "checkpoint.dir to start anew",
        run_dir, latest_name);
  std::string text;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) text += *step + "\n";
  return text;
}

}  // namespace

std::string newest_intact_step(const std::string& run_dir, Communicator& world) {
  const bool root = world.rank() == 0;
  Latest latest;
  std::string to_try;
  agree_or_throw(world, [&] {
    if (!root) return;
    latest = look_at_latest(run_dir);
    to_try = steps_to_try(run_dir, latest);
  });
  std::istringstream names(world.broadcast_text(to_try, 0));
  std::vector<std::pair<std::string, std::string>> damaged;  // step, reason
  for (std::string step; std::getline(names, step);) {
    const std::string folder = run_dir + "/" + step;
    const Verdict v = verify_step(folder, world);
    if (v.kind == Verdict::Kind::Unreadable) throw AgreedError(v.reason);
    if (v.kind == Verdict::Kind::Damaged) {
      damaged.emplace_back(step, v.reason);
      continue;
    }
    agree_or_throw(world, [&] {
      if (!root) return;
      // Killed in between, the next start must not take `latest` for a name that was mistyped by hand.
      if (!damaged.empty() && !latest.step.empty() && !latest.checked) write_latest(run_dir, latest.step);
      for (const auto& [name, reason] : damaged)
        log_warn("{}; set aside as {}/{}", reason, run_dir, set_damaged_aside(run_dir, name));
      if (step == latest.step && !latest.checked)
        log_info("{}/{}: has no hash: it was written by hand, or by an earlier version", run_dir, latest_name);
      if (step == latest.step) return;
      write_latest(run_dir, step);
      log_warn("{} is the newest intact step: training goes on from there", folder);
    });
    return folder;
  }
  if (damaged.empty()) return "";
  throw AgreedError(damaged.size() == 1
                        ? fmt::format("{}; no other step is there", damaged[0].second)
                        : fmt::format("{}; nor is any of the {} steps before it intact, the newest of them: {}",
                                      damaged[0].second, damaged.size() - 1, damaged[1].second));
}

}  // namespace upcycle
