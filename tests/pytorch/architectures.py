"""Writes the table of docs/traced.md: what PyTorch counts of architectures of transformers, and what costsim does.

python tests/pytorch/architectures.py [TYPE ...], with the extra `transformers`. Models are small, of two layers; the
class is the one that transformers has for a type with a loss; attention is eager, and dropout is as the config has it.
"""

import json
import sys
import tempfile
from pathlib import Path

from costsim.cost.count import count
from costsim.cost.memory import memory
from costsim.inputs.schema_workload import Optimizer
from costsim.models import traced
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.policy.load import find_policy, load_policies

_PLAIN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
_GROUPED = {**_PLAIN, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8, "sliding_window": 16}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 128}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_DEEPSEEK = {
    **_PLAIN,
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}
_PAIR = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
# By model_type: the fields of a small config.
ARCHITECTURES = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": _PLAIN,
    "opt": {
        **{name: _PLAIN[name] for name in _PLAIN if name != "intermediate_size"},
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    },
    "falcon": {
        name: _PLAIN[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    },
    "phi": _PLAIN,
    "phi3": {**_GROUPED, "pad_token_id": 0},
    "stablelm": _GROUPED,
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "granite": _GROUPED,
    "olmo2": _GROUPED,
    "smollm3": {**_GROUPED, "pad_token_id": 0},
    "starcoder2": _GROUPED,
    "cohere": _GROUPED,
    "mixtral": {**_GROUPED, "num_local_experts": 4},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 40},
    "qwen3_moe": {**_EXPERTS, "head_dim": 8},
    "gpt_oss": {**_GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _DEEPSEEK,
    "bert": _PLAIN,
    "roberta": _PLAIN,
    "electra": {**_PLAIN, "embedding_size": 32, "architectures": ["ElectraForPreTraining"]},
    "albert": {**_PLAIN, "embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "vocab_size": 96,
        "max_position_embeddings": 128,
    },
    "modernbert": {**_PLAIN, "pad_token_id": 0},
    "deberta-v2": {
        **_PLAIN,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "vit": {
        **{
            name: _PLAIN[name]
            for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        },
        "image_size": 16,
        "patch_size": 4,
    },
    "whisper": {
        **{name: value for name, value in _PAIR.items() if name != "max_position_embeddings"},
        "num_mel_bins": 8,
        "max_source_positions": 32,
        "max_target_positions": 64,
        **{f"{token}_token_id": 1 for token in ("bos", "eos", "decoder_start")},
        "pad_token_id": 0,
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 96},
    "mt5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 96},
    "bart": _PAIR,
    "mbart": _PAIR,
    "marian": {**_PAIR, "pad_token_id": 0, "decoder_start_token_id": 1},
}


# By model_type: the fields of dropout, as none.
NO_DROPOUT = {
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "bert": dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    "t5": {"dropout_rate": 0.0},
    "llama": {"attention_dropout": 0.0},
    "mixtral": {"attention_dropout": 0.0},
}


def config(model_type, folder, fields=()):
    """The path of a config file of a small model, with more fields."""
    path = Path(folder) / f"{model_type}.json"
    path.write_text(json.dumps({"model_type": model_type, **ARCHITECTURES[model_type], **dict(fields)}))
    return path


def counted(graph):
    """What costsim counts of a graph, by PyTorch's names."""
    macs = {
        first: sum(graph.work(op)[0] for op in graph.ops if (op.phase == "forward") is first) for first in (True, False)
    }
    assignment = assign(graph, load_policies(find_policy("fp32")))
    kept = memory(graph, assignment, "unfused").activations
    moved = {"forward": 0, "backward": 0}
    for row in count(graph, assignment, "eager", "layer"):
        bits = sum(move.read_bits + move.written_bits for move in row.moves)
        moved["forward" if row.phase == "forward" else "backward"] += len(row.ops) * bits // 8
    return {
        "parameters": graph.parameters,
        "flops_forward": 2 * macs[True],
        "flops_backward": 2 * macs[False],
        "saved_bytes": sum(place.size_bytes for place in kept),
        "eager_bytes_forward": moved["forward"],
        "eager_bytes_backward": moved["backward"],
    }


def graph_of(made, folder, micro_batches=1, **batch):
    """The step of a traced graph."""
    path = Path(folder) / "traced.json"
    path.write_text(made.text())
    model = traced.Model(family="traced", file=str(path))
    return training_step(model, traced.Batch(**batch), Optimizer(kind="adamw", lr=0.01), micro_batches)


# Why a count is not PyTorch's, by model_type.
_CHOSEN = "what is kept for a gradient of the choice of groups, which is never asked for"
EXPLAINED = {
    "deepseek_v2": _CHOSEN,
    "deepseek_v3": f"places of the two largest, which nobody reads; {_CHOSEN}",
    "roberta": "32-bit positions, which count as 64-bit ids",
    "deberta-v2": "gather keeps what it looks up in, of which its gradient needs the shape only",
}
COUNTS = {
    f"{what}_{phase}": f"{word} {phase}"
    for what, word in (("flops", "FLOPs"), ("eager_bytes", "eager bytes"))
    for phase in ("forward", "backward")
}
COUNTS = {"parameters": "parameters", **COUNTS, "saved_bytes": "saved bytes"}


def row(model_type, folder):
    """A row of the table: what PyTorch counts of an architecture, and by how much costsim is off."""
    from costsim.trace.trace import trace

    made = trace(f"hf:{config(model_type, folder)}")
    ours, theirs = counted(graph_of(made, folder)), made.counted
    off = "; ".join(f"{word} {ours[n] - theirs[n]:+,}" for n, word in COUNTS.items() if ours[n] != theirs[n])
    because = f": {EXPLAINED[model_type]}" if off and model_type in EXPLAINED else ""
    cells = [f"{theirs[name]:,}" for name in COUNTS]
    return f"| {' | '.join([model_type, made.source.partition(' ')[2].strip('()'), *cells, (off or '0') + because])} |"


def main(model_types):
    print(f"| {' | '.join(['type', 'class', *COUNTS.values(), 'difference'])} |")
    print(f"|{'---|' * 9}")
    with tempfile.TemporaryDirectory() as folder:
        for model_type in model_types:
            print(row(model_type, folder))


if __name__ == "__main__":
    main(sys.argv[1:] or list(ARCHITECTURES))
