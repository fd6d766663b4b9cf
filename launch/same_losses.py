#!/usr/bin/env python3
"""Checks that two training runs have the same losses:
  launch/same_losses.py TOLERANCE FOLDER [RANGES RECORDER] -- COMMAND -- COMMAND
Runs both commands, each with its own checkpoint.dir in FOLDER, and compares the losses of all steps. Exit code 1: a run
failed, the largest relative difference is above TOLERANCE, or the second run did not open each trace range of RANGES
(NAME,NAME), as recorded through NVTX by the library RECORDER (tests/nvtx_recorder.cpp)."""
import json
import os
import shutil
import subprocess
import sys


def losses(command, run, environment):
    shutil.rmtree(run, ignore_errors=True)
    done = subprocess.run([*command, "--checkpoint.dir=" + run], env=environment, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"same_losses.py: the run ended with {done.returncode}: {' '.join(command)}")
    with open(run + "/metrics.jsonl") as lines:
        found = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    shutil.rmtree(run)
    return found


def opened(record, name):
    with open(record) as lines:
        return sum(line.startswith(">") and line.split()[-1] == name for line in lines)


def main(words):
    if words.count("--") < 2 or words.index("--") not in (2, 4):
        sys.exit(__doc__)
    start = words.index("--")
    between = words.index("--", start + 1)
    tolerance, folder, ranges, recorder = (words[:start] + ["", ""])[:4]
    record = folder + "/ranges"
    first = losses(words[start + 1 : between], folder + "/first", None)
    told = {"NVTX_INJECTION64_PATH": recorder, "UPCYCLE_NVTX_RECORD": record} if ranges else {}
    second = losses(words[between + 1 :], folder + "/second", os.environ | told)

    print("first: ", *first)
    print("second:", *second)
    apart = [abs(a - b) / abs(a) for a, b in zip(first, second, strict=True)]
    good = bool(apart) and all(x <= float(tolerance) for x in apart)  # NaN is never good
    print(f"same: {len(apart)} losses, the largest relative difference {max(apart, default=0):.1e}, allowed {float(tolerance):.0e}")
    times = {name: opened(record + ".0", name) for name in filter(None, ranges.split(","))}
    for name, number in times.items():
        print(f"same: {name} ran {number} times in the second run")
    return 0 if good and all(times.values()) else 1


sys.exit(main(sys.argv[1:]))
