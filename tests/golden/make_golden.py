#!/usr/bin/env python3
"""Golden values of small random models of each family, made with PyTorch and transformers.

    python3 tests/golden/make_golden.py [case ...]        rewrites the folders beside this file

Each case is a Hugging Face directory (config.json, model.safetensors in fp32) and golden.safetensors; README.md lists
the tensors. Everything is computed in fp64 and stored in fp32. transformers still works in fp32 inside RMSNorm, RoPE
and the router's softmax, so values are good to about 1e-6, a hundred times below the tests' tolerance.
"""
import copy
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

HERE = os.path.dirname(os.path.abspath(__file__))
COEF_AUX, COEF_Z = 0.01, 0.001
MIN_GAP = 1e-3  # between the k-th and the next expert, in probability and in logits


@dataclass
class Case:
    name: str
    sizes: dict  # config keys besides the common ones
    batch: tuple = (3, 17)  # B, S
    masked: list = field(default_factory=list)  # (b, s) whose target is masked besides the last of each sequence
    family: str = ""  # model_type; "": mixtral if it has num_local_experts, else llama
    old_keys: bool = False  # write config.json as transformers 4 did: rope_theta and rope_scaling at the top


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
MIXTRAL = dict(hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
DENSE = dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2)
SMALL = dict(hidden_size=32, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.5}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 2000.0, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        "beta_fast": 8.0}
# Half of each head of 12 or three quarters of one of 8 turns: three pairs.
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.3, 2.0], "long_factor": [1.5, 3.0, 6.0]}
QWEN_MOE = dict(MIXTRAL, intermediate_size=28, moe_intermediate_size=20, num_hidden_layers=3, num_experts=5,
                num_experts_per_tok=2)
CASES = [
    Case("llama_gqa_tied", dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
                                num_key_value_heads=2, tie_word_embeddings=True), masked=[(0, 3), (2, 0), (2, 1)]),
    Case("llama_rope3_untied", dict(hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=5,
                                    num_key_value_heads=1, head_dim=12, rope_parameters=LLAMA3, rms_norm_eps=1e-6),
         batch=(2, 37), old_keys=True),
    Case("mixtral_k1", dict(MIXTRAL, num_local_experts=4, num_experts_per_tok=1)),
    # Four tokens and five experts: at least one expert of every layer gets none.
    Case("mixtral_k1_few", dict(MIXTRAL, num_local_experts=5, num_experts_per_tok=1), batch=(1, 4)),
    Case("mixtral_k2", dict(MIXTRAL, num_hidden_layers=3, num_local_experts=5, num_experts_per_tok=2,
                            rope_parameters={"rope_type": "default", "rope_theta": 500.0}), masked=[(1, 5), (2, 15)]),
    Case("mixtral_k3", dict(MIXTRAL, num_local_experts=5, num_experts_per_tok=3, tie_word_embeddings=True)),
    Case("llama_biases", dict(DENSE, attention_bias=True, mlp_bias=True), masked=[(1, 2)]),
    Case("qwen2", dict(DENSE, tie_word_embeddings=True), family="qwen2", masked=[(0, 3)]),
    Case("qwen3", dict(DENSE, head_dim=12), family="qwen3", masked=[(2, 1)]),
    Case("olmo2", dict(DENSE, num_hidden_layers=3, pad_token_id=None), family="olmo2", masked=[(1, 9)]),
    Case("olmo2_biases", dict(DENSE, head_dim=10, attention_bias=True, pad_token_id=None), family="olmo2", batch=(2, 9)),
    Case("mistral_linear", dict(SMALL, head_dim=12, sliding_window=24, rope_parameters=LINEAR), family="mistral"),
    Case("smollm3_dynamic", dict(SMALL, num_hidden_layers=3, no_rope_layer_interval=2, rope_parameters=DYNAMIC,
                                 tie_word_embeddings=True, pad_token_id=None), family="smollm3"),
    Case("granite_yarn", dict(SMALL, rope_parameters=YARN, embedding_multiplier=3.0, attention_multiplier=0.2,
                              residual_multiplier=0.4, logits_scaling=1.7), family="granite", batch=(2, 41)),
    # Row 0 of an embedding with a padding token would get no gradient.
    Case("gemma", dict(SMALL, head_dim=12, num_key_value_heads=1, pad_token_id=None), family="gemma",
         masked=[(0, 3)]),
    Case("gemma_biases", dict(SMALL, hidden_size=48, head_dim=10, attention_bias=True, tie_word_embeddings=False,
                              pad_token_id=None), family="gemma", batch=(2, 9), old_keys=True),
    Case("phi3_longrope", dict(SMALL, hidden_size=48, rope_parameters=LONGROPE, original_max_position_embeddings=16,
                               pad_token_id=None), family="phi3", batch=(2, 23), masked=[(1, 7)]),
    Case("phi3_short", dict(SMALL, rope_parameters=dict(LONGROPE, partial_rotary_factor=0.75),
                            original_max_position_embeddings=16, pad_token_id=None),
         family="phi3", batch=(3, 16), old_keys=True),
    Case("qwen2_moe", dict(QWEN_MOE, shared_expert_intermediate_size=24, mlp_only_layers=[1]), family="qwen2_moe",
         masked=[(1, 5), (2, 15)]),
    # Wider shared experts than dense MLPs, every second layer, weights of one expert renormalised to 1.
    Case("qwen2_moe_every2", dict(QWEN_MOE, shared_expert_intermediate_size=44, decoder_sparse_step=2,
                                  num_experts_per_tok=1, norm_topk_prob=True, tie_word_embeddings=True),
         family="qwen2_moe"),
    Case("qwen2_moe_no_shared", dict(QWEN_MOE, num_hidden_layers=2, shared_expert_intermediate_size=0,
                                     num_experts_per_tok=3, norm_topk_prob=True), family="qwen2_moe"),
    Case("qwen3_moe", dict(QWEN_MOE, head_dim=12, mlp_only_layers=[0], norm_topk_prob=True), family="qwen3_moe",
         masked=[(0, 3)]),
    Case("qwen3_moe_bias_k1", dict(QWEN_MOE, num_hidden_layers=2, num_experts_per_tok=1, attention_bias=True),
         family="qwen3_moe"),
    Case("granitemoe", dict(MIXTRAL, num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=3.0,
                            attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=1.7, attention_bias=True),
         family="granitemoe", masked=[(1, 9)]),
    Case("olmoe", dict(MIXTRAL, num_experts=5, num_experts_per_tok=2), family="olmoe", masked=[(2, 0)]),
    Case("olmoe_bias", dict(MIXTRAL, num_experts=5, num_experts_per_tok=2, norm_topk_prob=True, attention_bias=True),
         family="olmoe"),
]


def build(case, seed):
    """A model whose weights are all random, norms too, large enough that attention and routing are far from uniform."""
    torch.manual_seed(seed)
    common = dict(vocab_size=61, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5,
                  rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="sdpa")
    sizes = {**common, **case.sizes}
    if "num_experts_per_tok" in sizes:
        sizes["experts_implementation"] = "eager"
    family = case.family or ("mixtral" if "num_local_experts" in sizes else "llama")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_((0 if family == "gemma" else 1) + 0.2 * torch.randn_like(p))
            else:
                p.normal_(std=0.5 if "mlp.gate.weight" in name or "router.weight" in name else 0.2)
            if "shared_expert_gate" in name and sizes["shared_expert_intermediate_size"] == 0:
                p.zero_()  # it gates nothing: an export has zeros
    return model.eval()


def disk_gradients(model):
    """Gradients under the names and in the shapes that the checkpoint has on disk, which are not those in memory (there
    transformers 5 fuses a layer's experts): saved as the weights of a model that has them as its parameters."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, own in zip(twin.parameters(), model.parameters()):
            p.copy_(own.grad)
    with tempfile.TemporaryDirectory() as folder:
        twin.float().save_pretrained(folder)
        return load_file(os.path.join(folder, "model.safetensors"))


def router_losses(logits, k):
    """The trainer's definitions on one MoE layer's router logits (T, E): load balance (E/k) sum_e f_e P_e with
    f_e = assignments / T (uniform routing gives 1), z = mean of logsumexp squared; also the choices (T, k) and the gap
    between the k-th and the next expert."""
    tokens, experts = logits.shape
    probs = logits.softmax(-1)
    top = torch.topk(logits, k, dim=-1).indices
    f = torch.bincount(top.flatten(), minlength=experts).double() / tokens
    aux = experts / k * (f * probs.mean(0)).sum()
    z = logits.logsumexp(-1).square().mean()
    ranked = [x.sort(-1, descending=True).values for x in (logits, probs)]
    return aux, z, top, min((x[:, k - 1] - x[:, k]).min().item() for x in ranked)


def compute(case, model):
    """All golden tensors of a case, or None when two experts are too close to call in fp32."""
    batch, seq = case.batch
    ids = torch.randint(0, model.config.vocab_size, (batch, seq))
    targets = torch.full_like(ids, -1)
    targets[:, :-1] = ids[:, 1:]
    for b, s in case.masked:
        targets[b, s] = -1
    model.double()
    moe = hasattr(model.config, "num_experts_per_tok")
    result = model(ids, use_cache=False, **({"output_router_logits": True} if moe else {}))
    nll = torch.nn.functional.cross_entropy(result.logits.flatten(0, 1), targets.flatten(), ignore_index=-1,
                                            reduction="none")
    loss = nll.sum() / (targets >= 0).sum()
    out = {"ids": ids, "targets": targets, "logits": result.logits, "loss": loss, "nll": nll.view(batch, seq)}
    total = loss
    if moe:
        layers = [router_losses(x, model.config.num_experts_per_tok) for x in result.router_logits]
        sparse = [i for i, layer in enumerate(model.model.layers)
                  if hasattr(getattr(layer, "block_sparse_moe", None) or layer.mlp, "experts")]
        assert len(layers) == len(sparse)
        if min(layer[3] for layer in layers) < MIN_GAP:
            return None
        aux, z = torch.stack([layer[0] for layer in layers]), torch.stack([layer[1] for layer in layers])
        total = loss + COEF_AUX * aux.sum() + COEF_Z * z.sum()
        out |= {"aux_loss": aux.mean(), "z_loss": z.mean()}
        out |= {"coef_aux": torch.tensor(COEF_AUX), "coef_z": torch.tensor(COEF_Z)}
        for i, layer, logits in zip(sparse, layers, result.router_logits):
            out[f"experts.{i}"] = layer[2]
            out[f"router_logits.{i}"] = logits
    out["total_loss"] = total
    total.backward()
    out |= {f"grad.{name}": g for name, g in disk_gradients(model).items()}
    return {name: stored_form(t) for name, t in out.items()}


def stored_form(t):
    return t.detach().to(torch.float32 if t.is_floating_point() else torch.int32).reshape(t.shape or (1,)).contiguous()


def rewrite_config(case, folder):
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        config = json.load(f)
    config.pop("transformers_version", None)
    if case.old_keys:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        config["torch_dtype"] = config.pop("dtype")
        if case.family == "gemma":
            config |= {"hidden_act": "gelu", "hidden_activation": None}
        if case.family == "phi3":  # with just three keys
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
            rope["type"] = rope.pop("rope_type")
            rope.pop("original_max_position_embeddings")
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def make(case):
    for seed in range(1000):
        model = build(case, seed)
        stored = {name: p.detach().clone() for name, p in model.named_parameters()}
        golden = compute(case, model)
        if golden is not None:
            break
    else:
        raise SystemExit(f"{case.name}: no seed below 1000 keeps every top-k gap above {MIN_GAP}")
    with torch.no_grad():
        for name, p in model.named_parameters():
            assert torch.equal(p.float(), stored[name]), name
    folder = os.path.join(HERE, case.name)
    model.float().save_pretrained(folder)
    rewrite_config(case, folder)
    save_file(golden, os.path.join(folder, "golden.safetensors"), metadata={"seed": str(seed)})
    for name in os.listdir(folder):
        if name not in ("config.json", "model.safetensors", "golden.safetensors"):
            os.remove(os.path.join(folder, name))
        else:
            os.chmod(os.path.join(folder, name), 0o644)
    check(case, folder, golden)
    print(f"{case.name}: seed {seed}, loss {golden['loss'].item():.6f}"
          + (f", aux {golden['aux_loss'].item():.6f}, z {golden['z_loss'].item():.6f}" if "aux_loss" in golden else ""))


def check(case, folder, golden):
    """What was written: names and shapes of weights and gradients agree, and reloading gives the same logits."""
    weights = load_file(os.path.join(folder, "model.safetensors"))
    grads = {name[len("grad."):]: t for name, t in golden.items() if name.startswith("grad.")}
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in grads.items()}, \
        sorted(weights.keys() ^ grads.keys())
    assert all(t.dtype == torch.float32 for t in weights.values())
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        error = (again(golden["ids"].long(), use_cache=False).logits - golden["logits"]).abs().max().item()
    assert error < 1e-4, f"{case.name}: reloaded logits differ by {error}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    wanted = sys.argv[1:] or [case.name for case in CASES]
    unknown = set(wanted) - {case.name for case in CASES}
    if unknown:
        raise SystemExit(f"unknown case {sorted(unknown)}; known: {[case.name for case in CASES]}")
    for case in CASES:
        if case.name in wanted:
            make(case)
