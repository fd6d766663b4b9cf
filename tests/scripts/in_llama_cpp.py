"""Exported Qwen2-MoE models in llama.cpp, for check_upcycled.py."""
import random

import gguf
import llama_cpp as lc
import numpy as np
import torch
from safetensors.torch import load_file

from check_export import fail

QUIET = lc.llama_log_callback(lambda level, text, data: None)


def write_gguf(folder, config, path):
    """A GGUF file with the exported tensors, each under the name that llama.cpp's table gives its Hugging Face name."""
    tensors = load_file(f"{folder}/model.safetensors")
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


def load_gguf(folder, config, scratch):
    """The loaded model, None where llama.cpp refuses it, and what it logged."""
    path, said = f"{scratch}/model.gguf", []
    write_gguf(folder, config, path)
    log = lc.llama_log_callback(lambda level, text, data: said.append(text.decode(errors="replace")))
    lc.llama_log_set(log, None)
    loaded = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
    lc.llama_log_set(QUIET, None)
    return loaded, "".join(said)


def check_llama_cpp(folder, model, scratch):
    """llama.cpp gives the logits that transformers gives."""
    config = model.config
    loaded, said = load_gguf(folder, config, scratch)
    if not loaded:
        fail(f"{folder}: llama.cpp does not load it: {said}")
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


def check_refused(folder, model, scratch):
    """Without a shared expert its width is 0, which llama.cpp does not know: it looks for one that is as wide as an MLP."""
    loaded, said = load_gguf(folder, model.config, scratch)
    if loaded or "missing tensor" not in said or "shexp" not in said:
        fail(f"{folder}: llama.cpp {'loads it' if loaded else 'refuses it otherwise'}, which launch/README.md says otherwise")
    print(f"{folder}: llama.cpp refuses it: it has no shared expert")
