#!/usr/bin/env python3
"""The greedy continuations that transformers gives of real models, and of one that Upcycle made of them.

    python3 tests/golden/make_greedy.py UPCYCLE_BINARY MODELS        rewrites greedy.json beside this file

MODELS is the folder of the real models. The upcycled one is made by training a step with lr 0 and exporting: its
weights depend on `overrides` alone. A case is refused where two tokens are so close that fp32 could choose either.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from transformers import LlamaForCausalLM, MixtralForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS, PROMPT, LEAST_GAP = 64, 6, 1e-3
UPCYCLED = ["--model.num_local_experts=4", "--model.num_experts_per_tok=2", "--upcycle.noise_std=0.02", "--dtype=fp32",
            "--train.steps=1", "--train.lr=0", "--train.min_lr=0", "--train.seq_length=32",
            "--train.global_batch_size=1"]
CASES = [("stories260K", "stories260K/hf", []), ("TinyStories-656K", "TinyStories-656K", []),
         ("upcycled", "stories260K/hf", UPCYCLED)]


def upcycled(binary, model, overrides, folder):
    def run(*words):
        subprocess.run([binary, *words], check=True, stdout=subprocess.DEVNULL)
    text = os.path.join(folder, "text.txt")
    with open(text, "w", encoding="ascii") as file:
        file.write("What it trains on does not matter. " * 9)
    run("tokenize", "--tokenizer=bytes", f"--output={folder}/set", text)
    run("train", f"--init.upcycle={model}", f"--data.train={folder}/set", f"--checkpoint.dir={folder}/run", *overrides)
    run("export", f"{folder}/run", f"{folder}/hf")
    return f"{folder}/hf"


def continued(folder, prompt):
    kind = MixtralForCausalLM if json.load(open(f"{folder}/config.json"))["model_type"] == "mixtral" else LlamaForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[0]
        logits = model(ids[None]).logits[0, len(prompt) - 1:-1].double()
    top = logits.topk(2).values
    gap = (top[:, 0] - top[:, 1]).min().item()
    assert logits.argmax(1).tolist() == ids[len(prompt):].tolist() and gap > LEAST_GAP, (folder, gap)
    return ids[len(prompt):].tolist(), gap


def main(binary, models):
    found = {}
    for name, model, overrides in CASES:
        with open(os.path.join(models, model, "reference.json"), encoding="utf-8") as file:
            prompt = json.load(file)["ids"][:PROMPT]
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(models, model)
            tokens, gap = continued(upcycled(binary, source, overrides, folder) if overrides else source, prompt)
        print(f"{name}: the nearest two logits are {gap:.2g} apart")
        found[name] = {"model": model, "overrides": overrides, "prompt": prompt, "tokens": tokens}
    assert found["upcycled"]["tokens"] != found["stories260K"]["tokens"]
    with open(os.path.join(HERE, "greedy.json"), "w", encoding="ascii") as file:
        file.write("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in found.items()) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
