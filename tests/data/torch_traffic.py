"""Writes torch_traffic.json: bytes that PyTorch's eager kernels read and write, forward and backward, in float32.

python tests/data/torch_traffic.py SUPPLIED > tests/data/torch_traffic.json, with torch 2.13.0 and transformers 5.24.0.
SUPPLIED is a JSON with counts of others, which are copied: of the file as it is, or of what it was made of. The rest is
observed here: models without numbers, as costsim.trace.traffic counts them.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from costsim.trace.traffic import TrafficCounter

_SMALL = {"vocab_size": 1000, "max_position_embeddings": 4096, "num_hidden_layers": 2}
_LLAMA = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, **_SMALL}
_PAIR = {"d_model": 512, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024, "encoder_layers": 6, "decoder_layers": 6}
# By name: the class, the fields of its config, sequences, tokens.
MODELS = {
    "llama": ("Llama", {**_LLAMA, "tie_word_embeddings": False}, 1, 2048),
    "llama-batch": ("Llama", {**_LLAMA, "tie_word_embeddings": False}, 4, 512),
    "gemma": ("Gemma", {**_LLAMA, "head_dim": 64, "num_key_value_heads": 16}, 4, 512),
    "bart": (
        "Bart",
        {**_PAIR, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 10000},
        64,
        32,
    ),
    "gpt2": ("GPT2", {"activation_function": "gelu_new"}, 1, 1024),
    "bert": ("Bert", {"hidden_act": "gelu"}, 32, 128),
}
_HEADS = {"Bart": "ForConditionalGeneration", "GPT2": "LMHeadModel", "Bert": "ForMaskedLM"}
_NO_DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")
_NO_DROPOUT = (*_NO_DROPOUT, "hidden_dropout_prob", "attention_probs_dropout_prob")


def by_op(moved):
    """Reads, writes and calls by aten op."""
    found = {}
    for op, read, written in moved:
        row = found.setdefault(op, [0, 0, 0])
        row[:] = [row[0] + 1, row[1] + read, row[2] + written]
    return found


def observed(name):
    """What a model's eager kernels read and write."""
    family, fields, sequences, tokens = MODELS[name]
    config = getattr(transformers, f"{family}Config")(
        **{**dict.fromkeys(_NO_DROPOUT, 0.0), **fields}, attn_implementation="eager"
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = getattr(transformers, family + _HEADS.get(family, "ForCausalLM"))(config).train()
        ids = torch.zeros(sequences, tokens, dtype=torch.long)
        counter = TrafficCounter((*model.parameters(), *model.buffers(), ids))
        with counter:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        forward, counter.moved = counter.moved, []
        one = torch.ones_like(loss)
        counter.know(one)
        with counter:
            torch.autograd.grad(loss, [x for x in model.parameters() if x.requires_grad], one, allow_unused=True)
    return {"forward": by_op(forward), "backward": by_op(counter.moved)}


def supplied(data):
    """Runs of other people's counts: float32 with the loss, by model, then attention and dropout."""
    if "supplied" in data:
        return data["supplied"]
    found = {}
    for name, model in data["models"].items():
        for run in model["runs"]:
            if run["dtype"] == "float32" and run["with_loss"]:
                label = f"{run['attention']}{'-dropout' if run['dropout'] else ''}"
                found.setdefault(name, {})[label] = {
                    phase: {op: [row["calls"], row["read"], row["write"]] for op, row in each["by_op"].items()}
                    for phase, each in run["traffic"].items()
                }
    return found


def main(path):
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    data = {
        "origin": "torch_traffic.py: `observed` by costsim.trace.traffic, `supplied` as torch_counts.json was",
        "rows": "calls, bytes read, bytes written, by aten op",
        "versions": versions,
        "supplied": supplied(json.loads(Path(path).read_text())),
        "observed": {name: observed(name) for name in MODELS},
    }
    print(json.dumps(data, indent=0, separators=(",", ":")).replace("[\n", "[").replace(",\n", ",").replace("\n]", "]"))


if __name__ == "__main__":
    main(sys.argv[1])
