"""What nvcc made of the kernels: one line a kernel and architecture, checked against a table of expectations.

sass_table.py EXPECTATIONS [--only=sm_90] FILES...    FILES: objects or libraries with device code, of one architecture where
they were made for that alone. Reads them with cuobjdump and nvdisasm, which must be on PATH. Exit status 1 where an
expectation is not met.
"""
import collections
import concurrent.futures
import re
import subprocess
import sys

ARCHITECTURES = ("sm_90", "sm_100")
KINDS = {"sm_90.cubin", "sm_100.cubin", "sm_100.ptx"}  # what every object must hold; PTX is for future GPUs
# Of one SM of both: 32-bit registers, given out to a warp by 256; shared memory, of which each block takes 1 KiB more.
REGISTERS, REGISTER_UNIT, SHARED, RESERVED, THREADS, BLOCKS = 65536, 256, 228 * 1024, 1024, 2048, 32
COUNTS = ("registers", "static", "stack", "local", "generic", "mma", "ldsm", "ldgsts", "ldg", "ldg128", "stg", "stg128", "blocks")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"sass_table: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def short_names(mangled):
    """File and kernel of each symbol, without blanks: 'rms_norm:forward<bf16,8,256>'."""
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    names = {}
    for symbol, text in zip(mangled, plain.splitlines()):
        file = re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_", symbol)
        text = text.replace("(anonymous namespace)::", "").replace("upcycle::", "").replace("cuda::", "")
        text = re.sub(r"^void ", "", text)
        text = re.sub(r"\(\w+\)(?=\d)", "", text).replace("__nv_bfloat16", "bf16").split("(")[0]
        for plain, short in (("unsigned short", "u16"), ("unsigned int", "u32"), ("unsigned long", "u64"), (" ", "")):
            text = text.replace(plain, short)
        names[symbol] = f"{file[1] if file else '?'}:{text}"
    return names


def read(file):
    """{(symbol, arch): counts} of one object or library, and how many of its files have code of each kind."""
    kernels = collections.defaultdict(collections.Counter)
    arch = symbol = None
    for line in run("cuobjdump", "-res-usage", file).splitlines():
        if m := re.match(r"arch = (\w+)", line):
            arch = m[1]
        elif m := re.match(r" Function (\S+):", line):
            symbol = m[1]
        elif m := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            kernels[symbol, arch].update(registers=int(m[1]), stack=int(m[2]), static=max(0, int(m[3]) - RESERVED))
    for line in run("cuobjdump", "-sass", file).splitlines():
        if m := re.match(r"\s+code for (\w+)", line):
            arch = m[1]
        elif m := re.match(r"\s+Function : (\S+)", line):
            symbol = m[1]
        elif m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", line):
            count(kernels[symbol, arch], m[1])
    kinds = re.findall(r"\.(sm_\d+\.(?:cubin|ptx))$", run("cuobjdump", "-lelf", "-lptx", file), re.M)
    return kernels, collections.Counter(kinds)


def count(kernel, instruction):
    kernel["instructions"] += 1
    for name, pattern in (("mma", r"(H|HG|UTCH|UTCQ)MMA"), ("ldsm", "LDSM"), ("ldgsts", "LDGSTS"), ("local", "LDL|STL"), ("generic", r"(LD|ST)(\.|$)")):
        if re.match(pattern, instruction):
            kernel[name] += 1
    if m := re.match(r"(LDG|STG)(?![A-Z])(.*)", instruction):
        kernel[m[1].lower() + ("128" if ".128" in m[2] else "")] += 1


def blocks_per_sm(kernel, threads, shared):
    warps = -(-threads // 32)
    of_warp = -(-kernel["registers"] * 32 // REGISTER_UNIT) * REGISTER_UNIT
    return min(REGISTERS // (of_warp * warps), SHARED // (shared + kernel["static"] + RESERVED), THREADS // (warps * 32), BLOCKS)


def expectations(path):
    """(line number, pattern of names, architecture or None, conditions) of each line; see the file's head."""
    for number, line in enumerate(open(path), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        glob, conditions = words[0], words[1:]
        arch = conditions.pop(0) if conditions and conditions[0] in ARCHITECTURES else None
        pattern = re.compile("".join(".*" if c == "*" else re.escape(c) for c in glob) + "$")
        if not conditions:
            sys.exit(f"sass_table: {path}:{number}: expects nothing")
        yield number, pattern, arch, conditions


def broken(kernel, conditions):
    """The conditions that a kernel does not meet, with what it has."""
    settings = {}
    for condition in conditions:
        m = re.fullmatch(r"(\w+)(<=|>=|=)(\d+)", condition)
        if not m:
            sys.exit(f"sass_table: can not read '{condition}'")
        name, sign, number = m[1], m[2], int(m[3])
        if name in ("threads", "shared"):
            settings[name] = number
            continue
        if name not in COUNTS:
            sys.exit(f"sass_table: unknown '{name}' (known: threads, shared, {', '.join(COUNTS)})")
        value = blocks_per_sm(kernel, settings["threads"], settings.get("shared", 0)) if name == "blocks" else kernel[name]
        if not {"<=": value <= number, ">=": value >= number, "=": value == number}[sign]:
            yield f"{name} is {value}, expected {sign}{number}"


def main(table, files):
    architectures, wanted = ARCHITECTURES, KINDS
    if files[0].startswith("--only="):
        architectures = (files.pop(0).removeprefix("--only="),)
        wanted = {f"{architectures[0]}.cubin"}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = list(pool.map(read, files))
    kernels = {k: v for part, _ in found for k, v in part.items()}
    kinds = sum((k for _, k in found), collections.Counter())
    names = short_names(sorted({symbol for symbol, _ in kernels}))
    rows = sorted((names[symbol], arch, counts) for (symbol, arch), counts in kernels.items())
    faults = []

    print(f"{'kernel':64} {'arch':6} {'regs':>4} {'smem':>6} {'spill':>5} {'ldg128':>9} {'stg128':>9} {'mma':>4} {'ldsm':>4} {'ldgsts':>6}")
    for name, arch, c in rows:
        share = lambda op: f"{c[op + '128']}/{c[op + '128'] + c[op]}" if c[op + "128"] + c[op] else "-"
        print(f"{name:64} {arch:6} {c['registers']:4} {c['static']:6} {c['local']:5} {share('ldg'):>9} {share('stg'):>9} "
              f"{c['mma']:4} {c['ldsm']:4} {c['ldgsts']:6}")

    for number, pattern, only, conditions in expectations(table):
        of_line = [r for r in rows if pattern.match(r[0])]
        for arch in [a for a in architectures if only in (None, a)]:
            of_arch = [r for r in of_line if r[1] == arch]
            if not of_arch:
                faults.append(f"line {number}: no kernel of {arch} has this name")
            faults += [f"line {number}: {r[0]} {arch}: {fault}" for r in of_arch for fault in broken(r[2], conditions)]
    if set(kinds) != wanted or len(set(kinds.values())) != 1:
        faults.append(f"files by kind of code: {dict(kinds)}, expected as many of each of {', '.join(sorted(wanted))}")
    for fault in faults:
        print(f"sass_table: {fault}")
    print(f"sass_table: {len(names)} kernels as {', '.join(sorted(wanted))}; {len(faults)} expectations not met")
    return faults


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1], sys.argv[2:]) else 0)
