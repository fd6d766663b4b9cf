#!/usr/bin/env python3
"""Drops each barrier, asynchronous copy's wait or commit, event wait and wait of the host in turn, in a copy of its file,
and says which mode of the tests notices: mutate.py BUILD_FOLDER [FILE...]. Fails where one goes by that is not in
mutants_known.txt, which argues for each that it is redundant. A mutant that does not end is noticed too.
BUILD_FOLDER has the programs of the op tests, plain and under ThreadSanitizer, of training and of the communicator."""
import os, re, shlex, subprocess, sys, tempfile, time
from pathlib import Path

root = Path(__file__).resolve().parents[2]
build = Path(sys.argv[1]).resolve()
where = {"test_cuda_host_comm": "tests"}  # of programs; else:
device = re.compile(r"\b__sync(?:threads|warp)\([^;]*\);|\bgpu::cp_async_(?:wait<\w+>|commit)\(\);")
host = re.compile(r"UPCYCLE_CUDA\(cudaStreamWaitEvent\([^;]*\)\);|\b\w+_?(?:->|\.)(?:wait|synchronize)\([^;{}]*\);|"
                  r"(?<![\w>.:~])finish(?:_event)?\(\w[^;{}]*\);|UPCYCLE_CUDA\(cudaEventSynchronize\([^;]*\)\);")
kernels = root / "kernels/cuda"
hosted = [kernels / "cuda_device.cpp", kernels / "gemms.cpp", root / "core/staging.cpp",
          *sorted((root / "parallel/comm").glob("*nccl*.cpp"))]
# Op tests that run a file's kernels, on small shapes and on all; every one for files that several share.
filters = {"attention": ("Attention", "*Attention*"), "linear_xent": ("LinearXent", "*LinearXent*-LinearXent.EqualsAPlainLoop"),
           "xent_combine": ("LinearXent", "*LinearXent*:*CrossEntropy"), "rms_norm": ("RmsNorm", "*RmsNorm*"),
           "router": ("Router", "*Router*"), "sigmoid_router": ("SigmoidRouter", "*SigmoidRouter*"),
           "router_stats": ("Router", "*Router*:*Stats*"),
           "paged_attention": ("PagedAttention", "Paged*"), "sample_tokens": ("SampleTokens", "SampleTest.*"),
           "sort_by_expert": ("Dispatch", "Sort*:*SortAndRows"), "token_sort": ("Embedding", "*Embedding*")}
# Of a header: what a kernel file names that has the dropped line in it.
used_by_name = {"vector.cuh": "block_sum"}
deferred = {"UPCYCLE_EMUL_STREAMS": "deferred", "UPCYCLE_EMUL_GUARD": "1"}


def op_filters(file):
    for name, (small, every) in filters.items():
        if re.match(name + r"(_forward|_backward|_mma)*$", file.stem):
            return f"*SmallShapes.{small}/*", every
    return "*SmallShapes*", "-*Refuses*:LinearXent.*"


def modes(file):
    """(name, program, arguments, environment), the cheapest first."""
    if file.suffix in (".cu", ".cuh"):
        small, every = (f"--gtest_filter={text}" for text in op_filters(file))
        yield "reversed", "test_cuda_host", [small], {"UPCYCLE_EMUL_ORDER": "reverse"}
        yield "random", "test_cuda_host", [small], {"UPCYCLE_EMUL_SEED": "1"}
        yield "tsan", "test_cuda_host_tsan", [small], {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
        yield "random, all shapes", "test_cuda_host", [every], {"UPCYCLE_EMUL_SEED": "2"}
        return
    for seed in "1", "2", "3":
        env = deferred | {"UPCYCLE_EMUL_SEED": seed}
        if "nccl" in file.stem:
            yield f"deferred, 2 ranks, seed {seed}", "test_cuda_host_comm", ["mpirun"], env
            continue
        # Its tests look at device memory themselves.
        yield f"deferred, seed {seed}", "test_cuda_host_streams", [], env | {"UPCYCLE_EMUL_GUARD": "0"}
        if file.name != "gemms.cpp":
            yield f"deferred step, seed {seed}", "test_cuda_host_train", ["--gtest_filter=CudaTrainingStep.*"], env


def commands(target):
    out = subprocess.run(["ninja", "-C", str(build), "-t", "commands", target], capture_output=True, text=True, check=True)
    return out.stdout.splitlines()


def path_of(program):
    return build / where.get(program, "tests/cuda_host") / program


known_commands = {}


def commands_of(program):
    if program not in known_commands:
        known_commands[program] = commands(str(path_of(program).relative_to(build)))
    return known_commands[program]


def includes(text, file):
    return f'"{file.relative_to(root)}"' in text


def sources_of(file):
    """What is compiled again when `file` changes: itself, or the kernel files that include a header."""
    if file.suffix != ".cuh":
        return [file]
    headers, grown = {file}, True
    while grown:
        more = {h for h in kernels.glob("*.cuh") if any(includes(h.read_text(), x) for x in headers)} | headers
        headers, grown = more, more != headers
    name = used_by_name.get(file.name, "")
    return [s for s in sorted(kernels.glob("*.cu")) if name in (t := s.read_text()) and any(includes(t, h) for h in headers)]


def compile_one(program, source, work):
    """The command by which the build compiled it for this program, from the changed copy in `work`."""
    name = f"/{source.name}.cpp.o" if source.suffix == ".cu" else f"/{source.relative_to(root)}.o"
    lines = [c for c in commands_of(program) if re.search(re.escape(name) + r" -c ", c)]
    if not lines:
        return None
    words = shlex.split(lines[0])
    out = work / f"{program}.{source.name}.o"
    words[words.index("-o") + 1] = str(out)
    for flag in ("-MF", "-MT"):
        words[words.index(flag) + 1] = str(out) + ".d"
    at = words.index("-c") + 1
    if source.suffix != ".cu":
        words[at] = str(work / source.relative_to(root))
    words = [w for w in words if not w.startswith("-Werror")]
    if "-include" in words:  # headers that are precompiled for another level of optimisation
        first = words.index("-include")
        del words[first : first + 2]
    words.insert(at - 1, f"-I{work}")
    include = next(i for i, w in enumerate(words) if w.startswith("-I"))
    words.insert(include, f"-I{work}")
    subprocess.run(words + ["-w", "-O1"], cwd=build, check=True, capture_output=True)
    return out


def link(program, objects, work):
    line = commands_of(program)[-1]
    text = re.search(r"&& (.*?) && :", line).group(1) if "&&" in line else line
    words = shlex.split(text)
    out = work / program
    words[words.index("-o") + 1] = str(out)
    # Before the libraries: what they have of the same names is then not taken.
    first = next(i for i, w in enumerate(words) if w.endswith(".a"))
    subprocess.run(words[:first] + [str(o) for o in objects] + words[first:], cwd=build, check=True, capture_output=True)
    return out


def run(binary, arguments, env):
    command = [str(binary), "--gtest_brief=1", "--gtest_fail_fast", *[a for a in arguments if a != "mpirun"]]
    if "mpirun" in arguments:
        command = ["mpirun", "--oversubscribe", "-n", "2", *command]
    limit = float(os.environ.get("UPCYCLE_MUTANT_SECONDS", "300"))
    try:
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=limit, errors="replace",
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"no end after {limit:.0f} s"
    if done.returncode == 0:
        return None
    text = done.stdout + done.stderr
    found = re.search(r"(emul: .*|WARNING: ThreadSanitizer: [a-z ]+|\S+: Failure)", text)
    return found.group(1)[:110] if found else f"exit {done.returncode}"


passed = set()


def check_correct_code(program, arguments, env):
    """A mode that fails without a mutant too would notice everything."""
    key = (program, *arguments, *env.items())
    if key not in passed and (said := run(path_of(program), arguments, env)):
        sys.exit(f"mutate: {program} {arguments} {env} fails on the code as it is: {said}")
    passed.add(key)


def mutants(file):
    text = file.read_text()
    for m in (device if file.suffix in (".cu", ".cuh") else host).finditer(text):
        line_start = text.rfind("\n", 0, m.start()) + 1
        if "//" in text[line_start:m.start()]:
            continue
        yield text.count("\n", 0, m.start()) + 1, m.group(0), text[:m.start()] + ";" + text[m.end():]


def try_mutant(file, changed):
    with tempfile.TemporaryDirectory() as temporary:
        work, built = Path(temporary), {}
        copy = work / file.relative_to(root)
        copy.parent.mkdir(parents=True)
        copy.write_text(changed)
        for name, program, arguments, env in modes(file):
            if program not in built:
                if not path_of(program).exists():
                    sys.exit(f"mutate: {path_of(program)} is not built")
                objects = [o for s in sources_of(file) if (o := compile_one(program, s, work))]
                built[program] = link(program, objects, work) if objects else None
            if built[program] and (said := run(built[program], arguments, env)):
                check_correct_code(program, arguments, env)
                return name, said
    return None


os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "OMPI_MCA_mpi_yield_when_idle": "1"}
files = [root / f for f in sys.argv[2:]] or [*sorted(kernels.glob("*.cu")), *sorted(kernels.glob("*.cuh")), *hosted]
known = (Path(__file__).parent / "mutants_known.txt").read_text().splitlines()
known = {tuple(x.split(" | ")[:2]) for x in known if x and not x.startswith("#")}
total = noticed = 0
bad = []
for file in files:
    if file.name == "gpu.cuh":
        continue
    lines = file.read_text().splitlines()
    for number, dropped, changed in mutants(file):
        started = time.time()
        try:
            said = try_mutant(file, changed)
        except subprocess.CalledProcessError as e:
            sys.exit(f"mutate: {file.relative_to(root)}:{number} without {dropped!r}: {(e.stderr or b'').decode()[-2000:]}")
        total += 1
        noticed += said is not None
        place = f"{file.relative_to(root)}:{number}"
        excused = (str(file.relative_to(root)), lines[number - 1].strip()) in known
        if not said and not excused:
            bad.append(place)
        verdict = f"{said[0]}: {said[1]}" if said else "known to be redundant" if excused else "WENT BY"
        print(f"{place:44} {re.sub(chr(10) + ' *', ' ', dropped)[:60]:60} {verdict}  ({time.time() - started:.0f} s)", flush=True)
print(f"mutate: {noticed} of {total} noticed")
if bad:
    print("mutate: went by:", *bad)
    sys.exit(1)
