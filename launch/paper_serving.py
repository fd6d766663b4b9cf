"""The serving figures of arXiv 2411.08968, predicted by `upcycle bench predict`; called by paper_serving.sh."""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAUNCH = Path(__file__).resolve().parent
MACHINE = LAUNCH / "machines" / "h100.json"
README = LAUNCH / "README.md"
BEGIN, END = "<!-- paper_serving.sh -->", "<!-- end of paper_serving.sh -->"

# Published: name, config, GPUs (tp), k, tokens/s in and out at most, seconds at the lowest load (read off a plot).
ROWS = [
    ("436M", "436m_dense", 1, 0, 58140, 0.67),
    ("1.6B", "436m_moe", 1, 1, 33820, 0.82),
    ("1.6B", "436m_moe", 1, 2, 31920, 0.88),
    ("1.4B", "1.4b_dense", 1, 0, 46740, 1.0),
    ("6.7B", "1.4b_moe", 1, 1, 31540, 1.16),
    ("6.7B", "1.4b_moe", 1, 2, 25840, 1.33),
    ("8B", "8b_dense", 4, 0, 32680, 1.5),
    ("47B", "8b_moe", 4, 1, 19380, 1.7),
    ("47B", "8b_moe", 4, 2, 16720, 2.05),
]
FITTED_ON, OTHERS = range(3), range(3, 9)
FITTED = ["host_token_time", "moe_row_time", "expert_efficiency"]
POLICIES = ["prefill_first", "mixed"]
POOL = ThreadPoolExecutor(2)


def dense_of(row):
    return row - row % 3


def predict(constants, row, policy):
    """The row's tokens/s and seconds of one request alone, on a machine with these constants."""
    _, config, tp, k, _, _ = ROWS[row]
    overrides = [f"--parallel.tp={tp}", f"--parallel.etp={tp}"] if tp > 1 else []
    if k:
        overrides.append(f"--model.num_experts_per_tok={k}")
    machine = {"name": "h100"} | {key: {"value": value, "source": "-"} for key, value in constants.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(machine, file)
        file.flush()
        command = [os.environ["UPCYCLE_BINARY"], "bench", "predict", str(LAUNCH / f"configs/paper_serving_{config}.json"),
                   f"--machine={file.name}", "--input-len=3500", "--output-len=300", f"--policy={policy}", "--json"]
        done = subprocess.run(command + overrides, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"paper_serving.sh: {' '.join(command)} ended with {done.returncode}")
    found = json.loads(done.stdout)
    return found["total_token_throughput"], found["latency_alone_s"]


def predict_rows(constants, rows, policy):
    return list(POOL.map(lambda row: predict(constants, row, policy), rows))


def log_errors(constants, policy):
    """Of the throughputs of the rows that are fitted."""
    predicted = predict_rows(constants, FITTED_ON, policy)
    return [math.log(tokens / ROWS[row][4]) for row, (tokens, _) in zip(FITTED_ON, predicted)]


def solve(matrix, right):
    """Gaussian elimination with pivoting."""
    a = [row[:] + [b] for row, b in zip(matrix, right)]
    n = len(a)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(a[r][i]))
        a[i], a[pivot] = a[pivot], a[i]
        for r in range(n):
            if r != i:
                a[r] = [x - a[r][i] / a[i][i] * y for x, y in zip(a[r], a[i])]
    return [a[i][n] / a[i][i] for i in range(n)]


def scaled(constants, key, factor):
    return constants | {key: constants[key] * factor}


def slopes(constants, policy):
    """d log(throughput) / d log(constant), rows of the table by constants."""
    here = log_errors(constants, policy)
    there = [log_errors(scaled(constants, key, 1.01), policy) for key in FITTED]
    return [[(there[c][r] - here[r]) / math.log(1.01) for c in range(len(FITTED))] for r in FITTED_ON]


def fit(constants, policy, matrix=None):
    """Newton's method on three log errors and three logs of constants: as many as each other, so it fits exactly."""
    matrix = matrix or slopes(constants, policy)
    for _ in range(20):
        errors = log_errors(constants, policy)
        if max(map(abs, errors)) < 2e-4:
            # Three digits, as the machine file has them.
            return constants | {key: float(f"{constants[key]:.3g}") for key in FITTED}
        for key, step in zip(FITTED, solve(matrix, errors)):
            constants = scaled(constants, key, math.exp(max(-1.0, min(1.0, -step))))
    sys.exit(f"paper_serving.py: {policy}: the fit does not converge: errors of {errors} after 20 steps")


def errors_of_others(predicted):
    return [predicted[row][0] / ROWS[row][4] - 1 for row in OTHERS]


def summary(errors):
    sizes = [abs(e) for e in errors]
    return f"median {100 * statistics.median(sizes):.1f} %, largest {100 * max(sizes):.1f} %"


def throughput_table(predicted):
    lines = ["| model | of `configs/` | GPUs | k | published | " + " | ".join(f"{p} | error" for p in POLICIES) + " |",
             "|--|--|--|--|--|--|--|--|--|"]
    for row, (name, config, gpus, k, published, _) in enumerate(ROWS):
        cells = [name, f"`paper_serving_{config}.json`", str(gpus), str(k or "-"), f"{published:,}"]
        for policy in POLICIES:
            tokens = predicted[policy][row][0]
            cells += [f"{tokens:,.0f}", "fitted" if row in FITTED_ON else f"{100 * (tokens / published - 1):+.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def drop_table(predicted):
    lines = ["| model | k | below its dense model, published | " + " | ".join(f"{p} | points off" for p in POLICIES) + " |",
             "|--|--|--|--|--|--|--|"]
    for row, (name, _, _, k, published, _) in enumerate(ROWS):
        if not k:
            continue
        drop = 1 - published / ROWS[dense_of(row)][4]
        cells = [name, str(k), f"{100 * drop:.0f} %"]
        for policy in POLICIES:
            found = 1 - predicted[policy][row][0] / predicted[policy][dense_of(row)][0]
            cells += [f"{100 * found:.0f} %", "fitted" if row in FITTED_ON else f"{100 * (found - drop):+.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def latency_table(predicted):
    lines = ["| model | k | published, s | " + " | ".join(f"{p} | error" for p in POLICIES) + " |", "|--|--|--|--|--|--|--|"]
    for row, (name, _, _, k, _, published) in enumerate(ROWS):
        cells = [name, str(k or "-"), f"{published:.2f}"]
        for policy in POLICIES:
            seconds = predicted[policy][row][1]
            cells += [f"{seconds:.2f}", f"{100 * (seconds / published - 1):+.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def sensitivity_table(constants, predicted):
    policy = POLICIES[0]
    matrix = slopes(constants, policy)
    lines = ["| constant | value | x 1.25: dense tokens/s | MoE tokens/s | dense latency | MoE latency | x 0.8, fitted again | x 1.25, fitted again |",
             "|--|--|--|--|--|--|--|--|"]
    for key, value in constants.items():
        if value == 0 or key in ("memory_bytes", "memory_utilization", "product_rate_fp32"):
            continue
        changed = predict_rows(scaled(constants, key, 1.25), range(9), policy)
        cells = [f"`{key}`", f"{value:.3g}"]
        for what in (0, 1):
            for moe in (False, True):
                ratios = [changed[r][what] / predicted[r][what] for r in range(9) if bool(ROWS[r][3]) == moe]
                cells.append(f"{100 * (statistics.geometric_mean(ratios) - 1):+.1f} %")
        for factor in (0.8, 1.25):
            if key in FITTED:
                cells.append("fitted")
                continue
            again = fit(scaled(constants, key, factor), policy, matrix)
            others = predict_rows(again, OTHERS, policy)
            cells.append(summary([tokens / ROWS[r][4] - 1 for r, (tokens, _) in zip(OTHERS, others)]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if len(sys.argv) > 2 or mode not in ("", "--check", "--write"):
        print("usage: launch/paper_serving.sh [--check | --write]", file=sys.stderr)
        return 2
    machine_text = MACHINE.read_text()
    start = {key: c["value"] for key, c in json.loads(machine_text).items() if key != "name"}
    # From the same place always: the fit must not depend on what an earlier one wrote.
    start |= {"host_token_time": 2e-4, "moe_row_time": 5e-7, "expert_efficiency": 0.4}
    constants = {policy: fit(start, policy) for policy in POLICIES}
    predicted = {policy: predict_rows(constants[policy], range(9), policy) for policy in POLICIES}

    lines = ["Highest throughput, tokens/s in and out:", ""] + throughput_table(predicted) + [""]
    for policy in POLICIES:
        c = constants[policy]
        rate = c["expert_efficiency"] * c["product_rate_bf16"] / 1e12
        lat = [p[1] / ROWS[r][5] - 1 for r, p in enumerate(predicted[policy])]
        lines.append(f"- {policy}: {summary(errors_of_others(predicted[policy]))} of the six rows that are not fitted; latencies "
                     f"(none is fitted) {summary(lat)}. Fitted: {c['host_token_time'] * 1e6:.3g} us of the host per new token, "
                     f"{c['moe_row_time'] * 1e6:.3g} us per token and MoE layer, experts' products at {rate:.3g} TFLOP/s.")
    lines += ["", "Loss of throughput against the dense model:", ""] + drop_table(predicted)
    lines += ["", "Latency of a whole request at the lowest load (no queue, one request at a time):", ""] + latency_table(predicted)
    lines += ["", f"Each constant alone x 1.25 ({POLICIES[0]}): change of throughput and latency, geometric means over the dense and the MoE rows "
              "(the three fitted constants kept). Then, with it x 0.8 or x 1.25 and the three fitted again: errors of the other six rows.", ""] + sensitivity_table(constants[POLICIES[0]], predicted[POLICIES[0]])
    tables = "\n".join(lines) + "\n"

    new_machine = machine_text
    for key in FITTED:
        new_machine = re.sub(rf'("{key}": {{\s*"value": )[^,]*', rf"\g<1>{constants[POLICIES[0]][key]:.3g}", new_machine)
    readme = README.read_text()
    new_readme = re.sub(rf"(?s)({BEGIN}\n).*?({END}\n)", lambda m: m[1] + tables + m[2], readme)
    if mode == "":
        print(tables, end="")
    elif mode == "--write":
        MACHINE.write_text(new_machine)
        README.write_text(new_readme)
    elif new_readme != readme or new_machine != machine_text:
        print(tables, file=sys.stderr)
        print("launch/README.md or launch/machines/h100.json differs from what paper_serving.sh finds: run it with --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
