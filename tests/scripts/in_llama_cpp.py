"""Exported Qwen2-MoE models in llama.cpp, for check_upcycled.py."""
import random

import gguf
import numpy as np
import torch
import xllamacpp
from safetensors.torch import load_file

from check_export import fail

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


def serve_gguf(folder, config, scratch):
    """A server of the model in this process, fp32 keys and values."""
    path = f"{scratch}/model.gguf"
    write_gguf(folder, config, path)
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.n_parallel, params.warmup = 64, 64, 1, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params, params.cache_prompt, params.verbosity = False, False, -1
    return xllamacpp.Server(params)


def log_probabilities(server, ids, vocab):
    """Of each token of the vocabulary, after `ids`."""
    # It draws a token that is a text: half of a character, or the end, would come without any probabilities. They are
    # of the logits before the bias.
    said = server.handle_completions({"prompt": ids, "n_predict": 1, "n_probs": vocab, "temperature": 0,
                                      "cache_prompt": False, "logit_bias": [[vocab - 1, 1000]]})
    top = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = np.full(vocab, np.nan)
    for entry in top:
        found[entry["id"]] = entry["logprob"]
    return found


def check_llama_cpp(folder, model, scratch):
    """llama.cpp gives the probabilities that transformers gives."""
    config = model.config
    server = serve_gguf(folder, config, scratch)
    rng = random.Random(6)
    ids = [rng.randrange(3, config.vocab_size) for _ in range(24)]
    theirs = np.stack([log_probabilities(server, ids[:n], config.vocab_size) for n in range(1, len(ids) + 1)])
    with torch.no_grad():
        ours = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1).numpy()
    error = np.abs(theirs - ours).max()
    if not error < 1e-4:
        fail(f"{folder}: llama.cpp's log probabilities differ by {error:.3g}")
    print(f"{folder}: llama.cpp, log probabilities within {error:.2g}")


def check_refused(folder, model, scratch):
    """Without a shared expert its width is 0, which llama.cpp does not know: it looks for one that is as wide as an MLP."""
    try:
        serve_gguf(folder, model.config, scratch)
    except Exception as error:  # it says no more than that the model was not loaded
        print(f"{folder}: llama.cpp refuses it ({error}): it has no shared expert")
        return
    fail(f"{folder}: llama.cpp loads it, which launch/README.md says otherwise")
