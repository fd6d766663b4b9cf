#!/usr/bin/env python3
"""A long run in which something breaks in each window of steps, beside one in which nothing does: soak.py UPCYCLE LIBRARY...

The libraries, which are preloaded: tests/held_fsync.cpp, tests/faults, tests/sleeping_yield.cpp. A small MoE on --ranks ranks
(tp 2, ep 2, the rest dp) is trained twice, with a save four times a window. The first run is quiet, but for gradients that are not finite, which
it has too: a skipped step moves the data. The second has one fault a window, drawn with its place and rank by --seed, and after
each end the same command starts again, as launch/train.sbatch would. One line a fault says what came of it. Then every step's
numbers and the last checkpoint's hashes must be equal, bit for bit, and in long stretches no rank's memory, descriptors or threads
may have grown. Exit code 1: a promise is broken; the folder with all logs is kept and named."""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUMBERS = ["step", "tokens", "batch_size", "loss", "aux_loss", "z_loss", "lr", "grad_norm", "moe_layers"]  # but times
LAYERS = 1
MOST_GROWTH_MIB = 1  # of a rank's resident memory, from the first part of a stretch to its last
PATIENCE_S = 900     # without a new step, beyond the time-out

KINDS = ["kill_one", "kill_all", "kill_writing", "kill_publishing", "full_disk", "failed_write", "failed_fsync", "failed_rename",
         "flipped_byte", "cut_file", "missing_file", "nan", "inf", "wrong_gradient", "wrong_activation", "wrong_parameter",
         "wrong_moment", "sigterm", "sigusr1", "second_signal", "stopped_rank", "slow_rank"]

OUTLIVED = ["full_disk", "failed_write", "failed_fsync", "failed_rename", "nan", "inf", "slow_rank"]


class Broken(Exception):
    """A promise is."""


def expect(condition, text):
    if not condition:
        raise Broken(text)


class Fault:
    """What is to happen in a window: steps `begin` + 1 to `end`."""

    def __init__(self, kind, begin, options, draw):
        self.kind, self.begin, self.end = kind, begin, begin + options.window
        self.rank = draw.randrange(options.ranks)
        self.step = begin + draw.randint(options.window * 3 // 10, options.window * 8 // 10)
        # A step of a save; in it numbers are checked too.
        self.save = draw.choice([s for s in range(begin + options.window // 5, self.end - 1) if s % options.every == 0])
        self.draw = random.Random(draw.random())
        self.inject = ""   # for debug.inject
        self.library = ""  # for tests/faults

    def choose(self, options, run, skipped):
        """Fills in what the processes have to know from their start. `skipped`: steps that are, before this one."""
        sample = lambda step: options.batch * (step - 1 + skipped)
        once = lambda what, step, value: f"{what} {self.rank} {sample(step)} {sample(step)} {value}"
        folder, pick, rank = f"{run}/step_{self.save:08}.tmp", self.draw.choice, f"rank={self.rank}"
        layer = self.draw.randrange(LAYERS)
        part = pick(["self_attn.q_proj", "input_layernorm", "block_sparse_moe.gate"])
        tensor = f"model.layers.{layer}.{part}.weight"
        if self.kind in ("nan", "inf"):
            self.inject = once(f"gradient {tensor}", self.step, self.kind)
        elif self.kind == "wrong_gradient":
            self.inject = once(f"gradient {tensor}", self.save, pick(["once", "lasting"]))
        elif self.kind == "wrong_activation":
            self.inject = once(f"activation layers.{layer}.{pick(['x', 'mlp'])}", self.save, pick(["once", "lasting"]))
        elif self.kind == "wrong_parameter":
            self.inject = once(f"parameter {tensor}", self.save, "once")
        elif self.kind == "wrong_moment":  # a norm's, of which each tp rank has its own: whichever first one of tp owns it
            at = sample(self.save)
            name = f"model.layers.{layer}.input_layernorm.weight"
            self.inject = ";".join(f"moment {name} {r} {at} {at} once" for r in range(0, options.ranks, 2))
        elif self.kind == "kill_writing":
            self.library = f"{rank} operation=write call={self.draw.randint(1, 3)} fault=kill_half path={folder}/"
        elif self.kind == "kill_publishing":
            self.library = "rank=0 " + pick([f"operation=create fault=kill_after path={folder}/manifest",
                                             f"operation=write fault=kill_half path={folder}/manifest",
                                             f"operation=rename fault=kill_before path={folder}",
                                             f"operation=rename fault=kill_after path={folder}"])
        elif self.kind == "full_disk":
            self.library = f"{rank} operation=write times=always fault=ENOSPC path={folder}/"
        elif self.kind == "failed_write":
            self.library = f"{rank} operation=write call={self.draw.randint(1, 3)} fault={pick(['EIO', 'EDQUOT'])} path={folder}/"
        elif self.kind == "failed_fsync":
            self.library = f"{rank} operation=fsync fault=EIO path={folder}/"
        elif self.kind == "failed_rename":
            self.library = f"rank=0 operation=rename fault={pick(['EIO', 'EROFS'])} path={folder}"


class Run:
    """A training command, started again and again; its ranks are watched."""

    def __init__(self, options, work, name, faults):
        self.options, self.work, self.faults = options, work, faults
        self.folder, self.mark = work / name, f"{work}/{name}"
        self.hold = work / f"{name}.hold"  # while it exists no save ends
        self.log = work / f"{name}.1.log"
        self.process, self.starts, self.lives = None, 0, []

    def start(self):
        """The command, with those faults that are still to come; those of gradients that are not finite are the run's own."""
        inject = [f.inject for f in self.faults if f.inject]
        config = self.work / f"{self.folder.name}.json"
        config.write_text(json.dumps(small_run(self.options, self.work, self.folder, ";".join(inject)), indent=1))
        environment = os.environ | {"UPCYCLE_BINARY": self.options.upcycle, "OMP_NUM_THREADS": "1", "SOAK": self.mark,
                                    "TMPDIR": str(self.work), "HOLD_FSYNC": str(self.hold),
                                    "LD_PRELOAD": ":".join(self.options.libraries),
                                    "UPCYCLE_FAULT": "\n".join(f.library for f in self.faults if f.library)}
        self.starts += 1
        self.log = self.work / f"{self.folder.name}.{self.starts}.log"
        self.metrics_at = self.metrics_size()
        with open(self.log, "w") as log:
            words = ["setpriv", "--pdeathsig", "KILL", ROOT / "launch/run_local.sh", "-n", str(self.options.ranks), "train", config]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.ranks, self.samples = {}, collections.defaultdict(list)
        self.lives.append(self.samples)

    def metrics_size(self):
        path = self.folder / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def step(self):
        """The last step of this process; 0: none yet."""
        size = self.metrics_size()
        if size <= self.metrics_at:
            return 0
        with open(self.folder / "metrics.jsonl", "rb") as metrics:
            metrics.seek(max(self.metrics_at, size - 8192))
            lines = metrics.read().decode(errors="replace").split("\n")[:-1]
        found = [int(m.group(1)) for m in (re.match(r'\{"step":(\d+),.*"loss":', line) for line in lines) if m]
        return found[-1] if found else 0

    def processes(self):
        """Of this run: {pid: rank, or None where it is no rank}."""
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                words = pathlib.Path(entry.path, "environ").read_bytes().split(b"\0")
                if f"SOAK={self.mark}".encode() not in words:
                    continue
                program = os.path.basename(os.readlink(f"{entry.path}/exe"))
            except OSError:
                continue
            rank = [w.split(b"=")[1] for w in words if w.startswith(b"OMPI_COMM_WORLD_RANK=")]
            found[int(entry.name)] = int(rank[0]) if rank and program == os.path.basename(self.options.upcycle) else None
        return found

    def pids(self):
        if len(self.ranks) < self.options.ranks:
            self.ranks = {rank: pid for pid, rank in self.processes().items() if rank is not None}
        return self.ranks

    def sample(self):
        """Memory, descriptors and threads of each rank."""
        step = self.step()
        if step == 0:
            return
        for rank, pid in self.pids().items():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
            number = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.M)}
            if "VmRSS" in number:
                self.samples[rank].append((step, number["VmRSS"] / 1024, files, number["Threads"]))

    def wait(self, ready):
        """Until `ready` holds (True) or the process has ended (False)."""
        at, since, sampled = self.step(), time.monotonic(), 0
        while True:
            ended = self.process.poll() is not None
            if ready():
                return True
            if ended:
                return False
            now, step = time.monotonic(), self.step()
            if step != at:
                at, since = step, now
            expect(now - since < PATIENCE_S + self.options.timeout, f"nothing came after step {at} in {now - since:.0f} s")
            if now - sampled > self.options.sample_s:
                self.sample()
                sampled = now
            time.sleep(0.1)

    def reach(self, step):
        expect(self.wait(lambda: self.step() >= step),
               f"ended with {self.process.returncode} before step {step}, and nothing was to end it")

    def ended(self):
        """Its exit code; nothing of it may be left."""
        self.wait(lambda: False)
        left = self.processes()
        for _ in range(100):
            if not left:
                break
            time.sleep(0.1)
            left = self.processes()
        expect(not left, f"processes are left: {left}")
        return self.process.returncode

    def end_all(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def latest(self):
        path = self.folder / "latest"
        return path.read_text().split("\n")[0] if path.exists() else ""


def small_run(options, work, folder, inject):
    return {"dtype": "fp32",
            "model": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
                      "num_key_value_heads": 2, "vocab_size": 258, "max_position_embeddings": 16,
                      "num_local_experts": 4, "num_experts_per_tok": 2},
            "data": {"train": f"{work}/text"},
            "parallel": {"tp": 2, "ep": 2, "timeout_s": options.timeout},
            "checkpoint": {"dir": str(folder), "every": options.every, "keep": 3},
            "debug": {"inject": inject},
            "train": {"steps": options.steps, "seq_length": 16, "micro_batch_size": 1, "global_batch_size": options.batch,
                      "lr": 0.003, "warmup_steps": 10, "log_every": 50, "check_replicas_every": options.every,
                      "recompute_check_every": options.every}}


def make_text(options, work):
    """A token set: WORK/text."""
    lines = (f"The {'cat' if i % 3 else 'dog'} sat on the {'mat' if i % 5 else 'roof'} for {i % 7} hours.\n" for i in range(400))
    (work / "text.txt").write_text("".join(lines))
    subprocess.run([options.upcycle, "tokenize", "--tokenizer=bytes", f"--output={work}/text", work / "text.txt"], check=True,
                   stderr=subprocess.DEVNULL)


# What happens in a window. Each of these begins with the run before the fault, and returns what was seen and whether the process
# has ended.

def send(run, number, *ranks):
    for rank in ranks:
        os.kill(run.pids()[rank], number)


def kill(run, fault):
    run.reach(fault.step)
    time.sleep(fault.draw.random() * 0.2)
    if fault.kind == "kill_one":
        send(run, signal.SIGKILL, fault.rank)
    else:
        run.end_all()
    code = run.ended()
    expect(code not in (0, 2, 3, 5), f"ended with {code}")
    killed = f"rank {fault.rank}" if fault.kind == "kill_one" else "all"
    return f"SIGKILL of {killed} in step {fault.step + 1}: ended with {code}", True


def kill_in_save(run, fault):
    code = run.ended()
    expect(code not in (0, 2, 3, 5), f"ended with {code}")
    words = re.sub(r"path=\S*/(step_\S+)", r"\1", fault.library)
    return f"{words}: ended with {code}", True


def failed_save(run, fault):
    run.reach(fault.save)
    expect(run.wait(lambda: f"step {fault.save} was not saved" in run.said()), "the failed save was not said")
    expect(not list(run.folder.glob(f"step_{fault.save:08}*")), "something of the failed save is left")
    run.reach(fault.end)
    said = re.search(rf"step {fault.save} was not saved: .*?: ([A-Z][^:;]*); .*training goes on", run.said())
    expect(said, "training goes on: was not said")
    return f"{re.sub(r'path=.*', '', fault.library)}at the save of step {fault.save}: said ({said.group(1)}), went on", False


def injury(run, fault):
    run.reach(max(fault.step, fault.begin + run.options.every + run.options.every // 2))
    run.end_all()
    run.ended()
    step = run.latest()
    expect(step, "no checkpoint is there")
    path = fault.draw.choice(sorted(p for p in (run.folder / step).iterdir() if p.suffix in (".h5", ".json")))
    data = bytearray(path.read_bytes())
    at = fault.draw.randrange(len(data))
    if fault.kind == "flipped_byte":
        data[at] ^= 1 << fault.draw.randrange(8)
        path.write_bytes(data)
    elif fault.kind == "cut_file":
        path.write_bytes(data[:at])
    else:
        path.unlink()
    run.start()
    run.reach(int(step[5:]) - 1)
    expect("set aside" in run.said() and (run.folder / f"{step}.damaged").exists(), f"{step} was not set aside")
    shutil.rmtree(run.folder / f"{step}.damaged")
    where = "" if fault.kind == "missing_file" else f" at byte {at} of"
    return f"{fault.kind.replace('_', ' ')}{where} {step}/{path.name}, found and set aside: {resumed(run)}", False


def skipped(run, fault):
    run.reach(fault.end)
    said = f"rank {fault.rank}"
    line = [l for l in run.said().split("\n") if f"step {fault.step}: " in l and "the step is skipped" in l]
    expect(len(line) == 1 and said in line[0], f"step {fault.step} was to be skipped for {said}: {line}")
    return f"{fault.kind} in a gradient of rank {fault.rank} in step {fault.step}: skipped", False


def wrong_number(run, fault):
    code = run.ended()
    said = re.search(r"^upcycle: after step (\d+): (.*?)[;(]", run.said(), re.M)
    expect(code == 5 and said, f"ended with {code}, expected 5")
    expect(int(said.group(1)) == fault.save - 1, f"found after step {said.group(1)}, expected {fault.save - 1}")
    tensor = fault.inject.split()[1]
    expect(tensor in said.group(2), f"{tensor} is not named")
    if fault.kind != "wrong_moment":
        expect(f"rank {fault.rank} " in run.said(), f"rank {fault.rank} is not named")
    return f"{fault.inject.split(';')[0]}: ended with 5: {said.group(2).strip()}", True


def stop_signal(run, fault):
    run.reach(fault.step)
    run.process.send_signal(signal.SIGTERM if fault.kind == "sigterm" else signal.SIGUSR1)
    code = run.ended()
    said = re.search(r"stopped by a signal at step (\d+), saved", run.said())
    expect(code == 3 and said, f"ended with {code}, expected 3 and a save")
    expect(run.latest() == f"step_{int(said.group(1)):08}", f"latest names {run.latest()}")
    return f"{fault.kind.upper()} after step {fault.step}: ended with 3, saved step {said.group(1)}", True


def second_signal(run, fault):
    run.reach(fault.step)
    run.hold.touch()  # the save hangs until the second one comes
    run.process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    run.process.send_signal(signal.SIGTERM)
    code = run.ended()
    run.hold.unlink()
    expect(code == 3 and "ended without saving" in run.said(), f"ended with {code}, expected 3 and no save")
    return f"two SIGTERM after step {fault.step}, in a save that hangs: ended with 3", True


def stopped_rank(run, fault):
    run.reach(fault.step)
    since = time.monotonic()
    send(run, signal.SIGSTOP, fault.rank)
    code = run.ended()
    took = time.monotonic() - since
    report = (run.folder / "timeout_report.txt").read_text()
    expect(code not in (0, 2, 3, 5), f"ended with {code}")
    named = re.search(rf"^upcycle: .*rank {fault.rank} (on \S+ did not arrive|of this host stopped)", run.said(), re.M)
    expect(named, f"rank {fault.rank} is not named")
    expect(re.search(rf"^rank {fault.rank} on \S+: process \d+ stopped", report, re.M), "the report does not say that it stopped")
    expect(took < 4 * run.options.timeout + 60, f"took {took:.0f} s")
    return f"SIGSTOP of rank {fault.rank} after step {fault.step}: named after {took:.0f} s, ended with {code}", True


def slow_rank(run, fault):
    run.reach(fault.step)
    for _ in range(20):
        send(run, signal.SIGSTOP, fault.rank)
        time.sleep(0.1)
        send(run, signal.SIGCONT, fault.rank)
        time.sleep(0.05)
    seen = run.step()
    run.reach(fault.end)
    return f"rank {fault.rank} slow from step {fault.step} to {seen}: went on", False


CAUSE = {"kill_one": kill, "kill_all": kill, "kill_writing": kill_in_save, "kill_publishing": kill_in_save,
         "full_disk": failed_save, "failed_write": failed_save, "failed_fsync": failed_save, "failed_rename": failed_save,
         "flipped_byte": injury, "cut_file": injury, "missing_file": injury, "nan": skipped, "inf": skipped,
         "wrong_gradient": wrong_number, "wrong_activation": wrong_number, "wrong_parameter": wrong_number,
         "wrong_moment": wrong_number, "sigterm": stop_signal, "sigusr1": stop_signal, "second_signal": second_signal,
         "stopped_rank": stopped_rank, "slow_rank": slow_rank}


def resumed(run):
    said = re.search(r"resumed \S+ at step (\d+)", run.said())
    return f"went on from step {said.group(1)}" if said else "began anew"


def plan(options, run_folder):
    draw = random.Random(options.seed)
    # Those that the processes outlive come one after the other, so that a leak of a save that fails would show.
    ending, outlived = ([k for k in options.kinds if (k in OUTLIVED) == is_one] for is_one in (False, True))
    draw.shuffle(ending)
    draw.shuffle(outlived)
    at = draw.randint(0, len(ending))
    kinds = ending[:at] + outlived + ending[at:]
    faults, skips = [], 0
    for window in range(options.steps // options.window):
        fault = Fault(kinds[window % len(kinds)], window * options.window, options, draw)
        fault.choose(options, run_folder, skips)
        skips += fault.kind in ("nan", "inf")
        faults.append(fault)
    return faults


def lasting(fault):
    """Part of both runs."""
    return fault.kind in ("nan", "inf")


def numbers_of(run):
    """Of each step, the last time that it was made; of each skip likewise."""
    found = {}
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        if "loss" in line:
            found[line["step"]] = {name: line.get(name) for name in NUMBERS}
    return found


def last_state(run):
    manifest = json.loads((run.folder / run.latest() / "manifest.json").read_text())
    hashes = [[f["name"], f["hash"]] for f in manifest["files"]]
    return {"step": run.latest(), "samples": manifest["consumed_samples"], "tokens": manifest["tokens"], "files": hashes}


def expect_equal(options, quiet, broken):
    a, b = numbers_of(quiet), numbers_of(broken)
    expect(sorted(a) == list(range(1, options.steps + 1)), f"the quiet run has {len(a)} steps")
    expect(sorted(b) == sorted(a), f"the run with faults has {len(b)} steps")
    different = [s for s in sorted(a) if a[s] != b[s]]
    expect(not different, f"numbers of {len(different)} steps differ, first step {different[:1]}")
    a, b = last_state(quiet), last_state(broken)
    expect(a == b, f"the last checkpoints differ: {a} and {b}")
    for run in (quiet, broken):
        names = [p.name for p in run.folder.iterdir() if not re.fullmatch(
            r"step_\d+|latest|metrics\.jsonl|run\.json|\.lock|timeout_report\.txt", p.name)]
        expect(not names, f"left in {run.folder}: {names}")
        subprocess.run([options.upcycle, "inspect", run.folder, "--verify"], check=True, stdout=subprocess.DEVNULL)
    loss = numbers_of(quiet)[options.steps]["loss"]
    print(f"{options.steps} losses and the last checkpoint ({len(a['files'])} files, loss {loss:.6f}) are the quiet run's, bit for bit")


def expect_flat(name, life):
    """Memory, descriptors and threads of each rank: from the first of its samples, without the very first, to the last.
    Long enough stretches that some samples of each lie between two saves. (In time: a slow rank's steps have many.)"""
    samples = [s for one in life.values() for s in one]
    first, last = min(s[0] for s in samples), max(s[0] for s in samples)
    grown, kept = 0, []
    for rank, all_of_it in life.items():
        n = len(all_of_it)
        early, late = all_of_it[n // 10:4 * n // 10], all_of_it[6 * n // 10:]
        expect(len(early) > 2 and len(late) > 2, f"{name}: too few samples of rank {rank}: {len(early)} and {len(late)}")
        middle = [statistics.median(s[1] for s in part) for part in (early, late)]
        grown = max(grown, middle[1] - middle[0])
        # A save opens files and starts a thread for a while: what stays is the least.
        for what, i in (("descriptors", 2), ("threads", 3)):
            least = [min(s[i] for s in part) for part in (early, late)]
            expect(least[1] <= least[0], f"{name}: rank {rank} had {least[0]} {what}, then {least[1]}")
        kept.append((middle[1], min(s[2] for s in late), min(s[3] for s in late)))
    expect(grown <= MOST_GROWTH_MIB, f"{name}: a rank grew by {grown:.2f} MiB")
    most = [max(values) for values in zip(*kept)]
    print(f"{name}, steps {first} to {last}, {len(samples)} samples: at most {most[0]:.1f} MiB, {most[1]} descriptors, {most[2]} threads "
          f"a rank; memory grew by {grown:.2f} MiB, descriptors and threads by none")


def train_quietly(run):
    """Returns the seconds that it takes."""
    began = time.monotonic()
    run.start()
    run.reach(run.options.steps)
    expect(run.ended() == 0, "the quiet run did not end with 0")
    return time.monotonic() - began


def soak(options, work):
    make_text(options, work)
    began = time.monotonic()
    broken_folder = work / "broken"
    faults = plan(options, broken_folder)
    quiet = Run(options, work, "quiet", [f for f in faults if lasting(f)])
    broken = Run(options, work, "broken", faults)
    pool = concurrent.futures.ThreadPoolExecutor()
    try:
        quietly = pool.submit(train_quietly, quiet)  # beside the other: ranks mostly wait
        broken.start()
        for fault in faults:
            if quietly.done():
                quietly.result()
            seen, ended = CAUSE[fault.kind](broken, fault)
            if not lasting(fault):
                fault.inject = fault.library = ""  # it was, and is not caused again
            if ended:
                broken.start()
                broken.reach(1)
                seen += f"; {resumed(broken)}"
            broken.reach(fault.end)
            print(f"steps {fault.begin + 1} to {fault.end}: {fault.kind}: {seen}", flush=True)
        expect(broken.ended() == 0, f"ended with {broken.process.returncode}, expected 0")
        print(f"{len(faults)} faults of {len({f.kind for f in faults})} kinds, {options.steps} steps on {options.ranks} ranks, "
              f"{broken.starts} starts: {time.monotonic() - began:.0f} s")
        print(f"quiet run beside it: {quietly.result():.0f} s")
        expect_equal(options, quiet, broken)
        if options.flat:
            expect_flat("quiet run", quiet.samples)
            expect_flat("longest life of a process under faults", max(broken.lives, key=lambda l: len(l.get(0, []))))
    except Broken:
        for run in (quiet, broken):
            print(f"end of {run.log}:\n" + "\n".join(run.said().splitlines()[-12:]), file=sys.stderr)
        raise
    finally:
        for run in (quiet, broken):
            run.end_all()
        pool.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upcycle", type=os.path.realpath)
    parser.add_argument("libraries", type=os.path.realpath, nargs="+")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--window", type=int, default=0, help="steps with one fault; default: as many windows as kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=120, help="parallel.timeout_s")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS, help=", ".join(KINDS))
    options = parser.parse_args()
    if [os.path.basename(l) for l in options.libraries] != ["libheld_fsync.so", "libupcycle_faults.so", "libsleeping_yield.so"]:
        parser.error("expected the libraries held_fsync, upcycle_faults and sleeping_yield, in this order")
    options.window = options.window or options.steps // len(options.kinds)
    options.every, options.batch = options.window // 4, options.ranks // 2
    options.flat, options.sample_s = options.steps >= 1000, 0.4
    if options.ranks % 4 != 0 or options.window < 20 or any(k not in KINDS for k in options.kinds):
        parser.error("expected ranks in fours, windows of 20 steps or more, and kinds that there are")
    work = pathlib.Path(tempfile.mkdtemp(prefix="upcycle_soak_"))
    try:
        soak(options, work)
    except Broken as why:
        sys.exit(f"FAILED: {why}; all logs are in {work}")
    shutil.rmtree(work)
    print(f"seed {options.seed}: every promise was kept")


if __name__ == "__main__":
    main()
