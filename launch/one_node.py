#!/usr/bin/env python3
"""The ways to train configs/one_node_*.json on one node of 8 GPUs of 80 GiB, as `upcycle plan` has them:
  launch/one_node.py            prints the tables
  launch/one_node.py --check    fails if those in launch/README.md differ (a test runs this)
  launch/one_node.py --write    writes them into the README
UPCYCLE_BINARY names another program than build/release/upcycle; no build for GPUs is needed."""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.environ.get("UPCYCLE_BINARY", ROOT + "/build/release/upcycle")
README = ROOT + "/launch/README.md"
BEGIN, END = "<!-- one_node.py -->", "<!-- end of one_node.py -->"
GIB = 2.0**30
GPUS, GPU_MEMORY, FREE, HOST_MEMORY = 8, 80 * GIB, 0.1, 1e12
PEAK, UTILISATION = 989.4e12, 0.4  # FLOP/s of an H100 SXM, bf16, and the share of it that computing is taken to reach
LINK = 3.67e11  # bytes/s of machines/h100.json
MODELS = {"Llama-3-8B to 8 experts": "one_node_8b", "Qwen2.5-7B to 8 experts": "one_node_qwen2.5_7b"}

ON_GPUS = {"train.optimizer_offload": "false", "checkpoint.snapshot": "whole"}  # the configs offload
LESS_STATE = ON_GPUS | {"train.gradient_dtype": "bf16", "train.moment_dtype": "bf16", "train.master_dtype": "bf16_remainder"}
TP4 = {"parallel.tp": "4", "train.recompute": "selective"}
# What each way sets beside the config, and what it costs in precision.
WAYS = [
    ("all on the GPUs", ON_GPUS | {"train.recompute": "full"}, "nothing"),
    ("offload: the config as it is", {}, "nothing: the same bits"),
    ("bf16 gradients and moments", LESS_STATE | {"train.recompute": "norms,mlp"}, "gradients and moments have 8 bits"),
    ("the same, tp 4", LESS_STATE | TP4, "the same"),
    (
        "Lion, bf16 gradients",
        {"train.optimizer": "lion"} | LESS_STATE | {"train.moment_dtype": "fp32"} | TP4,
        "gradients have 8 bits; another optimizer, with rates of its own",
    ),
    (
        "Lion, bf16 moment",
        {"train.optimizer": "lion"} | LESS_STATE | {"train.gradient_dtype": "fp32"} | TP4,
        "the moment has 8 bits; another optimizer",
    ),
]


def run(*words):
    done = subprocess.run([BINARY, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"one_node.py: it ended with {done.returncode}: {' '.join([BINARY, *words])}")
    return done.stdout


def row(name, config, settings, precision):
    overrides = [f"--{key}={value}" for key, value in settings.items()]
    plan = json.loads(run("plan", f"{ROOT}/launch/configs/{config}.json", f"--world={GPUS}", "--device=cuda", "--json", *overrides))
    memory, on_host = plan["memory"], plan["memory_on_host"]
    of_gpu = {key: size for key, size in memory.items() if key not in on_host}
    named = ["parameters", "gradients", "optimizer", "activations"]
    rest = sum(size for key, size in of_gpu.items() if key not in named)
    gpu, host = sum(of_gpu.values()), GPUS * sum(memory[key] for key in on_host)
    free = 1 - gpu / GPU_MEMORY
    update = plan.get("offload", {}).get("seconds", 0)  # at worst all of it after the backward
    moving = (plan["fixed_bytes"] + plan["dispatch"]["bytes"]) / LINK  # at worst nothing runs beside it
    seconds = plan["flops_all_ranks"] / (GPUS * PEAK * UTILISATION) + moving + update
    mfu = plan["model_flops"] / seconds / (GPUS * PEAK)
    again = plan["flops_all_ranks"] / plan["model_flops"] - 1
    fits = "yes" if free >= FREE and host <= HOST_MEMORY else "no"
    recompute = settings.get("train.recompute", "none")
    shown = [name, f"tp {plan['layout']['tp']}, {recompute}"]
    shown += [f"{of_gpu.get(key, 0) / GIB:.1f}" for key in named] + [f"{rest / GIB:.1f}", f"{gpu / GIB:.1f}"]
    shown += [f"{100 * free:.0f} %", f"{host / GIB:,.0f}", fits, f"{100 * again:.0f} %"]
    shown += [f"{moving:.1f}", f"{update:.1f}", f"{seconds:.1f}", f"{100 * mfu:.0f} %", f"{plan['tokens_per_step'] * 86400 / seconds / 1e9:.2f}"]
    shown += [f"{plan['files']['all_ranks'] / GIB:.0f}", precision]
    return "| " + " | ".join(shown) + " |\n"


def tables():
    text = ""
    for title, config in MODELS.items():
        text += f"{title} (`configs/{config}.json`), GiB of one GPU where nothing else is said:\n\n"
        heads = ["way", "layout, recompute", "parameters", "gradients", "optimizer", "activations", "the rest", "in all", "free"]
        heads += ["host memory of the node", "fits", "FLOPs beside the model's", "collectives, s", "update on the CPU, s"]
        heads += ["a step, s", "MFU", "billion tokens a day", "checkpoint", "costs in precision"]
        text += "| " + " | ".join(heads) + " |\n" + "|--" * len(heads) + "|\n"
        for name, settings, precision in WAYS:
            text += row(name, config, settings, precision)
        text += "\n"
    return text[:-1]


def main(words):
    if words not in ([], ["--check"], ["--write"]):
        sys.exit(__doc__)
    made = tables()
    if not words:
        print(made, end="")
        return
    with open(README) as f:
        readme = f.read()
    before, rest = readme.split(BEGIN + "\n")
    old, after = rest.split(END + "\n")
    if words == ["--write"]:
        with open(README, "w") as f:
            f.write(before + BEGIN + "\n" + made + END + "\n" + after)
    elif old != made:
        print(made, end="")
        sys.exit("launch/README.md: its tables of one node differ from these, which plan gives: run launch/one_node.py --write")


main(sys.argv[1:])
