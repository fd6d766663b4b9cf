#!/usr/bin/env python3
"""Upcycled models, exported, in other programs: transformers, lm-eval and llama.cpp.

    check_upcycled.py UPCYCLE_BINARY [--without lm_eval,llama_cpp] [--only CASE,CASE]

Makes small random dense models of several families with a tokenizer, and one with norms over all queries and keys,
which no family of dense models has; upcycles and trains them for two steps in several ways, and exports them.
transformers gives each one's logits to 1e-4 (check_export.py), for the dense model too. One in fp16 comes out as it went
in, tensors and config.json. lm-eval runs one on a task of this script, and gives the log-likelihoods that
`upcycle score` gives for the same tokens. llama.cpp loads one, whose tensors it is handed under the names that its own
table has for them, and gives the same logits; one without a shared expert it refuses (in_llama_cpp.py). Exit status 0:
all agree; 1: one line says what does not.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from check_export import compare_scores, compare_tensors, fail, load, score

WORDS = "the of and to in a that he was it his her with as had for not you at on".split()
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "granite")
SWITCH = {"router_softmax": "softmax_then_topk"}
SHARED = {"shared_expert": True}
CASES = [  # name, dense model, keys of model, upcycle.*, model_type of the export
    ("llama_copies", "llama", MOE, {}, "mixtral"),
    ("llama_shared", "llama", MOE | SWITCH | SHARED, {}, "qwen2_moe"),
    ("llama_every2", "llama", MOE | {"moe_every_n_layers": 2}, {"noise_std": 0.02}, "qwen2_moe"),
    ("llama_groups", "llama", {"num_local_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 24} | SWITCH,
     {"mode": "virtual_group", "scale": "down"}, "qwen2_moe"),
    ("qwen2_copies", "qwen2", MOE, {}, "qwen2_moe"),
    ("qwen2_shared", "qwen2", MOE | SHARED, {}, "qwen2_moe"),
    ("qwen3_copies", "qwen3", MOE, {}, "qwen3_moe"),
    ("qwen3_every2", "qwen3", MOE | SWITCH | {"moe_every_n_layers": 2}, {}, "qwen3_moe"),
    ("full_norms_copies", "full_norms", MOE, {}, "olmoe"),
    ("full_norms_groups", "full_norms", {"num_local_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 24}
     | SWITCH, {"mode": "virtual_group", "scale": "down"}, "olmoe"),
    ("mistral_copies", "mistral", MOE, {}, "mixtral"),
    ("granite_copies", "granite", MOE, {}, "granitemoe"),
]
OWN = {"qwen3": {"head_dim": 32}, "mistral": {"sliding_window": None},
       "granite": {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.7,
                   "logits_scaling": 2.0}}
SIZES = dict(vocab_size=320, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        fail(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def sentences(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(count)]


def make_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(sentences(random.Random(0), 400), trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"], special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def make_dense(kind, folder):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **OWN.get(kind, {})))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.1 * torch.randn_like(p)) if "norm" in name else p.normal_(std=0.15)
    model.save_pretrained(folder)
    make_tokenizer(folder)


def train(binary, folder, name, config):
    config |= {"dtype": "fp32", "checkpoint": {"dir": f"{folder}/{name}"}}
    config["data"] = config.get("data", {}) | {"train": f"{folder}/tokens"}
    config["train"] = {"seq_length": 32, "global_batch_size": 4, "warmup_steps": 0} | config["train"]
    with open(f"{folder}/{name}.json", "w") as f:
        json.dump(config, f)
    run(binary, "train", f"{folder}/{name}.json")


def make_full_norms(binary, folder):
    """A dense checkpoint of our own: norms over all queries and keys as OLMo2 has them, but ahead of the branches."""
    keys = SIZES | {"qk_norm": "full", "initializer_range": 0.15}
    train(binary, folder, "full_norms", {"model": keys, "data": {"tokenizer": f"{folder}/llama/tokenizer.json"},
                                         "train": {"steps": 4, "lr": 2e-2}})


def make_moe(binary, case, folder):
    """The upcycled model's folder in Hugging Face form, from the dense one in folder/KIND."""
    name, kind, keys, upcycle, model_type = case
    train(binary, folder, name, {"model": keys, "upcycle": upcycle, "init": {"upcycle": f"{folder}/{kind}"},
                                 "train": {"steps": 2, "lr": 3e-3}})
    out = f"{folder}/{name}_hf"
    run(binary, "export", f"{folder}/{name}", out)
    with open(f"{out}/config.json") as f:
        found = json.load(f)["model_type"]
    if found != model_type:
        fail(f"{out}: model_type {found!r}, expected {model_type!r}")
    travelled = ["tokenizer_config.json"] if kind in FAMILIES else []  # beside our own there is none
    for file in ["tokenizer.json", "generation_config.json", "README.md", *travelled]:
        if not os.path.exists(f"{out}/{file}"):
            fail(f"{out}: no {file}")
    return out


def check_half(binary, folder):
    """A model in fp16 comes out of a checkpoint as it went in."""
    half, again = f"{folder}/half", f"{folder}/half_hf"
    AutoModelForCausalLM.from_pretrained(f"{folder}/llama", dtype=torch.float16).save_pretrained(half)
    run(binary, "import", half, f"{folder}/half_run")
    run(binary, "export", f"{folder}/half_run", again)
    compare_tensors(again, half)
    read = lambda name: json.load(open(f"{name}/config.json"))
    if read(again) != read(half) or read(half)["dtype"] != "float16":
        fail(f"{again}/config.json is not {half}'s")
    print(f"{again}: fp16, tensors and config.json as they went in")


def check_lm_eval(binary, folder, scratch):
    """Multiple-choice items of a task file of our own: lm-eval's log-likelihoods are those of `upcycle score`."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    rng = random.Random(5)
    items = [{"question": q, "choices": [" " + c for c in sentences(rng, 4)], "gold": rng.randrange(4)}
             for q in sentences(rng, 12)]
    os.makedirs(f"{scratch}/task", exist_ok=True)
    with open(f"{scratch}/task/items.jsonl", "w") as f:
        f.writelines(json.dumps(item) + "\n" for item in items)
    with open(f"{scratch}/task/ours.yaml", "w") as f:
        f.write(f"""task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {scratch}/task/items.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
""")
    result = lm_eval.simple_evaluate(model=HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=4),
                                     tasks=["ours"], task_manager=TaskManager(include_path=f"{scratch}/task"),
                                     log_samples=True, bootstrap_iters=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    worst, right = 0.0, 0
    samples = result["samples"]["ours"]
    for sample in samples:
        ours = []
        for choice, response in zip(sample["doc"]["choices"], sample["filtered_resps"]):
            whole, start = encode(sample["doc"]["question"] + choice), len(encode(sample["doc"]["question"]))
            ours.append(-sum(score(binary, folder, whole)["nll"][start - 1:]))
            worst = max(worst, abs(ours[-1] - float(response[0])))
        right += int(np.argmax(ours) == sample["doc"]["gold"])
    if len(samples) != len(items) or worst > 1e-3:
        fail(f"{folder}: {len(samples)} of {len(items)} items, log-likelihoods of lm-eval differ by {worst:.3g}")
    accuracy = result["results"]["ours"]["acc,none"]
    if abs(accuracy - right / len(items)) > 1e-9:
        fail(f"{folder}: accuracy {accuracy} of lm-eval, {right / len(items)} of upcycle score")
    print(f"{folder}: lm-eval {lm_eval.__version__}, {4 * len(items)} log-likelihoods within {worst:.2g}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--without", default="", help="lm_eval, llama_cpp or both, joined by a comma")
    parser.add_argument("--only", default="", help="cases, joined by commas; all otherwise")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    without = args.without.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_HOME"] = f"{scratch}/hf"
        with open(f"{scratch}/text.txt", "w") as f:
            f.write("\n".join(sentences(random.Random(1), 300)))
        run(args.binary, "tokenize", "--tokenizer", "bytes", "--output", f"{scratch}/tokens", f"{scratch}/text.txt")
        for kind in FAMILIES:
            make_dense(kind, f"{scratch}/{kind}")
            worst = compare_scores(args.binary, f"{scratch}/{kind}", load(f"{scratch}/{kind}"))
            print(f"{scratch}/{kind}: largest difference {worst:.2g}")
        check_half(args.binary, scratch)
        make_full_norms(args.binary, scratch)
        for case in CASES:
            if args.only and case[0] not in args.only.split(","):
                continue
            folder = make_moe(args.binary, case, scratch)
            model = load(folder)
            worst = max(compare_scores(args.binary, source, model) for source in (f"{scratch}/{case[0]}", folder))
            print(f"{folder}: {type(model).__name__}, largest difference {worst:.2g}", flush=True)
            if case[0] == "llama_shared" and "lm_eval" not in without:
                check_lm_eval(args.binary, folder, scratch)
            if case[0] in ("llama_shared", "llama_groups") and "llama_cpp" not in without:
                from in_llama_cpp import check_llama_cpp, check_refused
                (check_llama_cpp if case[0] == "llama_shared" else check_refused)(folder, model, scratch)
