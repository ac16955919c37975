"""Writes a table of docs/traced.md: traced models beside costsim's own families, tensor by tensor.

PYTHONPATH=tests python tests/pytorch/beside_families.py [TYPE ...], with the extra `transformers`. Small models without
dropout, traced and imported, run the same: weights by their elements, products by GEMM and MACs, and what is kept for
the backward by bytes and format. What is on one side only has a name and a reason in DIFFERENCES; all else pairs up.
"""

import sys
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import NamedTuple

from architectures import ARCHITECTURES, NO_DROPOUT, config, graph_of
from test_imported_models import prepared

from costsim.cost.memory import memory
from costsim.policy.assign import assign
from costsim.policy.load import find_policy, load_policies


class Why(NamedTuple):
    """What the traced graph has and costsim's own has not, and the reverse, by globs, and why."""

    text: str
    traced: str = ""
    own: str = ""


COUNTED = Why("how many tokens the loss counts, which PyTorch keeps", traced="head.cross_entropy.counted")
REPEATED = (
    Why("keys, repeated for each query of their group", "*.self_attn.copy", "*.self_attention.k_rope"),
    Why("values, repeated for each query of their group", "*.self_attn.copy.1", "*.self_attention.v"),
)
# By model_type: what differs of weights, of products and of what is kept.
DIFFERENCES = {
    "gpt2": {
        "weights": [Why("q, k and v are one weight", "*.attn.c_attn.*", "*.self_attention.[qkv].*")],
        "products": [Why("q, k and v are one product", "*.attn.c_attn*", "*.self_attention.[qkv]*")],
        "kept": [COUNTED],
    },
    "llama": {"kept": [COUNTED, *REPEATED]},
    "bert": {
        "kept": [
            COUNTED,
            Why("token types, one row in PyTorch", "embedding.bert.embeddings.take_along", "embedding.types.ids"),
        ]
    },
    "t5": {"kept": [COUNTED]},
    "mixtral": {
        "weights": [Why("gate and up are one weight", "*.experts.gate_up_proj", "*.experts.fc[13].weight")],
        "products": [
            Why(
                "gate and up are one product",
                "*.experts.product *.experts.product.d[xw]",
                "*.experts.fc[13] *.experts.fc[13].d[xw]",
            )
        ],
        "kept": [
            COUNTED,
            *REPEATED,
            Why("copies of the weights of each token's experts", traced="*.mlp.experts.index*"),
            Why("gate and up in one tensor", "*.mlp.experts.product", "*.experts.fc[13]"),
            Why("sums of the chosen gates", traced="*.mlp.gate.sum"),
        ],
    },
}
_AS_PYTORCH = ("batch.padding_mask=false", "attention_pairs=square", "model.attention=eager", "model.scaled=scores")
_BATCHES = {"t5": {"sequences": 2, "source_tokens": 64, "target_tokens": 48}}


def graphs(model_type, folder):
    """The traced graph of a small model without dropout, and that of costsim's own family."""
    from costsim.trace.trace import trace

    path = config(model_type, folder, NO_DROPOUT[model_type])
    batch = _BATCHES.get(model_type, {"sequences": 2, "tokens": 64})
    fields = {"model_type": model_type, **ARCHITECTURES[model_type], **NO_DROPOUT[model_type]}
    sizes = (f"batch.{name}={size}" for name, size in batch.items())
    own = prepared(Path(folder), fields, *sizes, *_AS_PYTORCH, "model.fused_activation=false").graph
    return graph_of(trace(f"hf:{path}"), folder), own


def parts(graph):
    """By what is compared: of each part of a graph, by name, what it is."""
    kept = memory(graph, assign(graph, load_policies(find_policy("fp32"))), "unfused").activations
    return {
        "weights": {weight.name: prod(graph.shape(weight.name)) for weight in graph.weights},
        "products": {op.name: (op.gemm, graph.work(op)[0]) for op in graph.ops if op.gemm},
        "kept": {place.name: (place.size_bytes, place.format.name) for place in kept},
    }


def matched(names, globs):
    """The names that one of some globs is of."""
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs.split())]


def unpaired(traced, own, whys):
    """What is on one side only without a reason, and reasons for nothing."""
    ours, theirs = (
        Counter(part for name, part in side.items() if not any(matched([name], why[at]) for why in whys))
        for at, side in ((1, traced), (2, own))
    )
    idle = [why.text for why in whys for at, side in ((1, traced), (2, own)) if why[at] and not matched(side, why[at])]
    return {"only traced": ours - theirs, "only costsim's": theirs - ours, "idle": idle}


def size(part):
    """How much of it there is: elements, MACs or bytes."""
    return part if isinstance(part, int) else next(number for number in part if isinstance(number, int))


def total(side):
    return sum(map(size, side.values()))


def _one_sided(names, side):
    """Parts by name, with stars for layers and a product's gradients with it; how often, and how much each is."""
    words = [[word for word in name.split(".") if word not in ("dx", "dw")] for name in names]
    stars = [".".join(r"\*" if word.isdigit() else word for word in name) for name in words]
    found = Counter((star, size(side[name])) for star, name in zip(stars, names, strict=True))
    return ", ".join(f"{times} x {name} {each:,}" for (name, each), times in found.items())


def rows(model_type, traced, own):
    """Of a model: its row of the table of sums, and those of the table of differences."""
    cells = [model_type]
    for what in COMPARED:
        cells += [f"{len(traced[what])} / {len(own[what])}", f"{total(traced[what]):,} / {total(own[what]):,}"]
    yield f"| {' | '.join(cells)} |"
    for what, whys in DIFFERENCES[model_type].items():
        for why in whys:
            sides = [
                _one_sided(matched(side, glob), side) for side, glob in ((traced[what], why[1]), (own[what], why[2]))
            ]
            yield f"| {' | '.join([model_type, what, *sides, why.text])} |"


COMPARED = ("weights", "products", "kept")
HEADS = (
    ("type", "weights", "elements", "products", "MACs", "kept", "bytes"),
    ("type", "of", "only traced", "only costsim's", "why"),
)


def main(model_types):
    with tempfile.TemporaryDirectory() as folder:
        sides = {model_type: map(parts, graphs(model_type, folder)) for model_type in model_types}
        made = [list(rows(model_type, *each)) for model_type, each in sides.items()]
    tables = [each[0] for each in made], [line for each in made for line in each[1:]]
    for heads, lines in zip(HEADS, tables, strict=True):
        print("", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(DIFFERENCES))
