#!/usr/bin/env python3
"""Does transformers load an exported model and compute what `upcycle score` computes?

    check_export.py UPCYCLE_BINARY HF_DIRECTORY [--same-as ORIGINAL_HF_DIRECTORY]

Loads the directory with the class that its config.json says, with every weight accounted for, and compares the negative
log-likelihood of each id (`nll`) and the logits after the last one (`logits_last`) of several random sequences with
those of `upcycle score HF_DIRECTORY --dtype fp32 --json`: 1e-4 absolute, 1e-5 for the mean. The greedy tokens of
`upcycle generate` are transformers' up to the first choice between logits closer than 1e-3. --same-as also compares the
tensors with those of another Hugging Face directory, bit for bit.
Exit status 0: all agree; 1: something differs, with one line saying what.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from glob import glob

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TOLERANCE, MEAN_TOLERANCE = 1e-4, 1e-5


def fail(message):
    sys.exit(f"check_export.py: {message}")


def tensors(folder):
    out = {}
    for path in sorted(glob(os.path.join(folder, "model*.safetensors"))):
        out.update(load_file(path))
    return out


def score(binary, folder, ids):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"ids": ids}, f)
        f.flush()
        done = subprocess.run([binary, "score", folder, "--ids", f.name, "--dtype", "fp32", "--json"],
                              capture_output=True, text=True)
    if done.returncode:
        fail(f"upcycle score {folder}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def load(folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if config.get("architectures") != [type(model).__name__]:
        fail(f"{folder}/config.json: architectures {config.get('architectures')}, expected [{type(model).__name__!r}]")
    # A shared expert of width 0 has no values to store.
    empty = {name for name, p in model.named_parameters() if p.numel() == 0}
    info["missing_keys"] = set(info["missing_keys"]) - empty
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            fail(f"{folder}: {what} {sorted(map(str, info[what]))[:5]}")
    return model.eval()


def longest_scored(config, most):
    """upcycle refuses more than a sliding window holds."""
    return min(config.max_position_embeddings, getattr(config, "sliding_window", None) or most, most)


def longest_generated(config, most):
    """And to generate past the length at which longrope changes its factors."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        most = min(most, rope.get("original_max_position_embeddings", config.max_position_embeddings))
    return longest_scored(config, most)


def compare_scores(binary, folder, model):
    rng = random.Random(1)
    longest = longest_scored(model.config, 96)
    worst = 0.0
    for length in (2, 17, longest):
        ids = [rng.randrange(model.config.vocab_size) for _ in range(length)]
        ours = score(binary, folder, ids)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
        nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        for what, mine, theirs in (("nll", ours["nll"], nll), ("logits_last", ours["logits_last"], logits[-1])):
            mine = torch.tensor(mine, dtype=torch.float64)
            if mine.shape != theirs.shape:
                fail(f"{folder}: {what} of {length} ids has {tuple(mine.shape)} values, expected {tuple(theirs.shape)}")
            error = (mine - theirs).abs().max().item()
            if not error <= TOLERANCE:
                fail(f"{folder}: {what} of {length} ids differs by {error:.3g}, more than {TOLERANCE:g}")
            worst = max(worst, error)
        error = abs(ours["mean_nll"] - nll.mean().item())
        if not error <= MEAN_TOLERANCE:
            fail(f"{folder}: mean_nll of {length} ids differs by {error:.3g}, more than {MEAN_TOLERANCE:g}")
    return worst


def compare_greedy(binary, folder, model, most=64):
    rng = random.Random(2)
    prompt = [rng.randrange(model.config.vocab_size) for _ in range(5)]
    most = longest_generated(model.config, len(prompt) + most) - len(prompt)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        json.dump({"prompt": prompt, "max_tokens": most, "temperature": 0}, f)
        f.flush()
        done = subprocess.run([binary, "generate", folder, "--prompts", f.name, "--json"],
                              capture_output=True, text=True)
    if done.returncode:
        fail(f"upcycle generate {folder}: exit {done.returncode}: {done.stderr.strip()}")
    ours = json.loads(done.stdout)["tokens"]
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=most, do_sample=False,
                             eos_token_id=model.config.eos_token_id)[0]
        top = model(ids[None], use_cache=False).logits[0, len(prompt) - 1:-1].topk(2).values
    theirs = ids[len(prompt):].tolist()
    close = [i for i, (a, b) in enumerate(top.tolist()) if a - b < 1e-3]
    same = close[0] if close else len(theirs)
    if ours[:same] != theirs[:same] or (not close and len(ours) != len(theirs)):
        fail(f"{folder}: greedy tokens {ours} differ from {theirs}")
    return same


def compare_tensors(folder, original):
    ours, theirs = tensors(folder), {name: t for name, t in tensors(original).items() if t.numel()}
    if ours.keys() != theirs.keys():
        fail(f"{folder}: tensor names differ from {original}'s: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    for name, t in theirs.items():
        if ours[name].dtype != t.dtype or ours[name].shape != t.shape or not torch.equal(ours[name], t):
            fail(f"{folder}: tensor {name} is not {original}'s")


def check(binary, folder, same_as=None):
    if same_as:
        compare_tensors(folder, same_as)
    model = load(folder)
    worst = compare_scores(binary, folder, model)
    greedy = compare_greedy(binary, folder, model)
    print(f"{folder}: {type(model).__name__}, largest difference {worst:.2g}, {greedy} equal greedy tokens", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("folder")
    parser.add_argument("--same-as")
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    check(args.binary, args.folder, args.same_as)
