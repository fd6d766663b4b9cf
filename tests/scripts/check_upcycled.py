#!/usr/bin/env python3
"""Upcycled models, exported, in other programs: transformers, lm-eval and llama.cpp.

    check_upcycled.py UPCYCLE_BINARY [--without lm_eval,llama_cpp]

Makes small random Llama and Qwen2 models with a tokenizer, upcycles and trains them for two steps in several ways, and
exports them. transformers gives each one's logits to 1e-4 (check_export.py). lm-eval runs one on a task of this script,
and gives the log-likelihoods that `upcycle score` gives for the same tokens. llama.cpp loads one, whose tensors it is
handed under the names that its own table has for them, and gives the same logits. Exit status 0: all agree; 1: one line
says what does not.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from check_export import compare_scores, fail, load, score

WORDS = "the of and to in a that he was it his her with as had for not you at on".split()
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
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
]
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
    model = LlamaForCausalLM(LlamaConfig(**SIZES)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**SIZES))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.1 * torch.randn_like(p)) if "norm" in name else p.normal_(std=0.15)
    model.save_pretrained(folder)
    make_tokenizer(folder)


def make_moe(binary, case, folder):
    """The upcycled model's folder in Hugging Face form, from the dense one in folder/KIND."""
    name, kind, keys, upcycle, model_type = case
    config = {"dtype": "fp32", "model": keys, "upcycle": upcycle, "init": {"upcycle": f"{folder}/{kind}"},
              "data": {"train": f"{folder}/tokens"}, "checkpoint": {"dir": f"{folder}/{name}"},
              "train": {"steps": 2, "seq_length": 32, "global_batch_size": 4, "lr": 3e-3, "warmup_steps": 0}}
    with open(f"{folder}/{name}.json", "w") as f:
        json.dump(config, f)
    run(binary, "train", f"{folder}/{name}.json")
    out = f"{folder}/{name}_hf"
    run(binary, "export", f"{folder}/{name}", out)
    with open(f"{out}/config.json") as f:
        found = json.load(f)["model_type"]
    if found != model_type:
        fail(f"{out}: model_type {found!r}, expected {model_type!r}")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"):
        if not os.path.exists(f"{out}/{file}"):
            fail(f"{out}: no {file}")
    return out


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


def check_llama_cpp(folder, model, scratch):
    """A GGUF file with the exported tensors, each under the name that llama.cpp's table gives its Hugging Face name."""
    import gguf
    import llama_cpp as lc
    config, tensors = model.config, load_file(f"{folder}/model.safetensors")
    path = f"{scratch}/model.gguf"
    w = gguf.GGUFWriter(path, "qwen2moe")
    w.add_context_length(config.max_position_embeddings), w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers), w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads), w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps), w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_expert_count(config.num_experts), w.add_expert_used_count(config.num_experts_per_tok)
    w.add_expert_feed_forward_length(config.moe_intermediate_size)
    w.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    w.add_vocab_size(config.vocab_size), w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("llama")
    w.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)] +
                     [b"t%d" % i for i in range(config.vocab_size - 259)])
    w.add_token_scores([0.0] * config.vocab_size)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (config.vocab_size - 259))
    w.add_bos_token_id(1), w.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2MOE, config.num_hidden_layers)
    experts = {}
    for name, t in tensors.items():
        if ".experts." in name:
            base, rest = name.split(".experts.")
            number, matrix = rest.split(".", 1)
            experts.setdefault(f"{base}.experts.{matrix}", {})[int(number)] = t
    stacked = {name: torch.stack([by[i] for i in range(len(by))]) for name, by in experts.items()}
    for name, t in (tensors | stacked).items():
        if ".experts." in name and name not in stacked:
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias")) or fail(f"{folder}: llama.cpp does not know {name}")
        w.add_tensor(known, t.squeeze(0).numpy() if "shared_expert_gate" in name else t.numpy())
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    quiet = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(quiet, None)
    loaded = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
    if not loaded:
        fail(f"{folder}: llama.cpp does not load it")
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 64, 64, 1, 1
    context = lc.llama_init_from_model(loaded, params)
    rng = random.Random(6)
    ids = [rng.randrange(3, config.vocab_size) for _ in range(24)]
    batch = lc.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if lc.llama_decode(context, batch) != 0:
        fail(f"{folder}: llama.cpp does not compute it")
    theirs = np.stack([np.ctypeslib.as_array(lc.llama_get_logits_ith(context, i), (config.vocab_size,)).copy()
                       for i in range(len(ids))])
    with torch.no_grad():
        ours = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    if not error < 2e-3:  # its keys and values are fp16
        fail(f"{folder}: llama.cpp's logits differ by {error:.3g} (relative L2)")
    print(f"{folder}: llama.cpp, logits within {error:.2g} (relative L2)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--without", default="", help="lm_eval, llama_cpp or both, joined by a comma")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    without = args.without.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_HOME"] = f"{scratch}/hf"
        with open(f"{scratch}/text.txt", "w") as f:
            f.write("\n".join(sentences(random.Random(1), 300)))
        run(args.binary, "tokenize", "--tokenizer", "bytes", "--output", f"{scratch}/tokens", f"{scratch}/text.txt")
        for kind in ("llama", "qwen2"):
            make_dense(kind, f"{scratch}/{kind}")
        for case in CASES:
            folder = make_moe(args.binary, case, scratch)
            model = load(folder)
            worst = max(compare_scores(args.binary, source, model) for source in (f"{scratch}/{case[0]}", folder))
            print(f"{folder}: {type(model).__name__}, largest difference {worst:.2g}")
            if case[0] == "llama_shared":
                if "lm_eval" not in without:
                    check_lm_eval(args.binary, folder, scratch)
                if "llama_cpp" not in without:
                    check_llama_cpp(folder, model, scratch)
