"""Writes torch_counts_llama.json: what PyTorch itself counts for models whose norms transformers writes op by op.

python tests/data/torch_counts_llama.py > tests/data/torch_counts_llama.json, with torch 2.13.0 and transformers 5.24.0.
Runs on the meta device: nothing is computed. Eager attention gets a mask of zeros in the model's dtype; flash is
aten._scaled_dot_product_flash_attention.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.gemma import modeling_gemma
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

BATCH, TOKENS = 1, 2048
WAYS = [(a, d, w) for a in ("eager", "flash") for d in ("float32", "bfloat16") for w in (True, False)]
EAGER = [way for way in WAYS if way[0] == "eager"]  # the kernel takes as many heads of keys as of queries, and no cap
SMALL_GEMMA = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}
WINDOWS = {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}


def real(make, name):
    """A model of tests/data/configs, once: eager, in bfloat16, with the loss."""
    config = json.loads((Path(__file__).parent / "configs" / f"{name}.json").read_text())
    return make, make.config_class(**config), [("eager", "bfloat16", True)]


MODELS = {
    "llama-2-7b": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_attention_heads=32,
            num_hidden_layers=32,
            vocab_size=32000,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        ),
        WAYS,
    ),
    "qwen3-small": (  # norms of queries and keys
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config(
            hidden_size=256,
            intermediate_size=1024,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=64,
            num_hidden_layers=2,
            vocab_size=1000,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        ),
        WAYS,
    ),
    "llama-grouped": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_hidden_layers=2,
            vocab_size=1000,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        ),
        EAGER,
    ),
    "gemma-small": (transformers.GemmaForCausalLM, transformers.GemmaConfig(**SMALL_GEMMA), WAYS),
    "gemma2-small": (transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**SMALL_GEMMA, **WINDOWS), EAGER),
    "gemma3-small": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(**SMALL_GEMMA, **WINDOWS), WAYS),
    "gemma-2b": real(transformers.GemmaForCausalLM, "gemma-2b"),
    "gemma-2-2b": real(transformers.Gemma2ForCausalLM, "gemma-2-2b"),
    "gemma-3-1b-it": real(transformers.Gemma3ForCausalLM, "gemma-3-1b-it"),
}


def no_mask(config, inputs_embeds, **_):
    """Zeros for eager attention: the true mask is made with a decision that the meta device cannot take."""
    if config._attn_implementation != "eager":
        return None
    n = inputs_embeds.shape[1]
    return torch.zeros(1, 1, n, n, dtype=inputs_embeds.dtype, device=inputs_embeds.device)


def flash(_module, query, key, value, _mask, scaling=None, **_):
    """Attention as one kernel, to [batch, tokens, heads, head]."""
    out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scaling)[0]
    return out.transpose(1, 2).contiguous(), None


def count(make, config, attention, dtype, with_loss):
    """FLOPs, and the storages that autograd keeps when the forward ends; parameters and buffers left out."""
    config._attn_implementation = {"eager": "eager", "flash": "one_kernel"}[attention]
    with torch.device("meta"):
        model = make(config).to(getattr(torch, dtype)).train()
        ids = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    standing = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    alive, storages = [], {}

    def pack(tensor):
        alive.append(tensor)  # so that no address is used twice
        storage = tensor.untyped_storage()
        if storage._cdata not in standing:
            storages.setdefault(storage._cdata, (storage.nbytes(), str(tensor.dtype).removeprefix("torch.")))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FlopCounterMode(display=False) as flops:
        out = model(input_ids=ids, use_cache=False, **({"labels": ids} if with_loss else {}))
        forward, saved = flops.get_total_flops(), dict(storages)
        (out.loss if with_loss else out.logits.sum()).backward()
    return {
        "attention": attention,
        "dtype": dtype,
        "with_loss": with_loss,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_forward": forward,
        "flops_backward": flops.get_total_flops() - forward,
        "saved_bytes": sum(size for size, _ in saved.values()),
        "saved_storages": {f"{size} {name}": n for (size, name), n in sorted(Counter(saved.values()).items())},
    }


def main():
    transformers.AttentionInterface.register("one_kernel", flash)
    for modeling in (modeling_llama, modeling_qwen3, modeling_gemma, modeling_gemma2, modeling_gemma3):
        modeling.create_causal_mask = modeling.create_sliding_window_causal_mask = no_mask
    counts = {
        "origin": "counted by PyTorch itself (FlopCounterMode, saved_tensors_hooks): torch_counts_llama.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "batch": BATCH,
        "tokens": TOKENS,
        "saved_storages": "bytes of one and its dtype: how many",
        "models": {name: [count(make, config, *way) for way in ways] for name, (make, config, ways) in MODELS.items()},
    }
    json.dump(counts, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
