"""What imported models keep for the backward, against autograd, storage by storage: data/transformers_saved.py.

python tests/test_saved_bytes.py writes the table of docs/trust.md.
"""

import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import shipped_policy
from data.transformers_losses import SEQUENCES, TARGETS, TOKENS
from test_imported_models import STORED, tiny

from costsim.cost.memory import memory
from costsim.policy.assign import assign

SAVED = json.loads((Path(__file__).parent / "data" / "transformers_saved.json").read_text())["models"]
DTYPES = {"fp32": "float32", "index64": "int64", "mask8": "bool"}
SIZES = {"float32": 4, "int32": 4, "int64": 8, "bool": 1, "complex64": 8}
ALL = SEQUENCES * TOKENS
LAYERS, WIDTH, FFN = 2, 8, 12
CHOSEN = ALL * 2  # rows that experts take in all


class Why(NamedTuple):
    """What PyTorch keeps and we do not, and the reverse, and why: storages."""

    text: str
    theirs: Counter
    ours: Counter = Counter()  # noqa: RUF012 - nobody adds to it


def storages(dtype, *shape, times=1):
    return Counter({(SIZES[dtype] * math.prod(shape), dtype): times})


def floats(*shape, times=1):
    return storages("float32", *shape, times=times)


def ids(*shape, times=1):
    return storages("int64", *shape, times=times)


# --- why they differ --------------------------------------------------------------------------------------------------

LOSS = Why("the loss's sum of class weights", floats(1))
BUFFER_IDS = Why("positions, a buffer in PyTorch", Counter(), ids(ALL))
ROW_OF_IDS = Why("positions of all sequences, one row here", ids(ALL), ids(TOKENS))
TARGET_ROW = Why("positions of targets, one row in PyTorch", ids(TARGETS), ids(SEQUENCES, TARGETS))
TYPES = Why("token types, one row in PyTorch", ids(TOKENS), ids(ALL))
FIRST = Why("the last hidden state, of which the first token is a view", floats(ALL, WIDTH), floats(SEQUENCES, WIDTH))
ROUTED = Why("products of experts: how many rows each has", storages("int32", 4))


def repeated(queries, keys, head):
    """Keys and values of heads that share them."""
    whole, single = (floats(ALL, heads * head, times=2 * LAYERS) for heads in (queries, keys))
    return Why("keys and values, repeated for each query of their group", whole, single)


def packed(rows, width, layers=LAYERS):
    """Two layers as one product, whose result views of its halves keep alive: as many bytes."""
    one, other = floats(rows, 2 * width, times=layers), floats(rows, width, times=2 * layers)
    return Why("fc1 and fc3, one storage in PyTorch", one, other)


def permuted(layers, lookups=3):
    """Which token stands where, as tokens are sorted by expert and back."""
    return Why("experts: which row is which token's, sorted and back", ids(CHOSEN, times=lookups * layers))


def normalized(layers, more=0):
    """Gates that sum to 1: transformers keeps what it divides by, and we the result."""
    return Why("sums of the chosen gates", floats(ALL, times=layers), floats(CHOSEN, times=more))


SPLIT = Why("k and v taken by lists of places", ids(1, times=2 * LAYERS))
NEW_GELU = Why(
    "gelu_new, op by op in PyTorch; here one kernel where it gates",
    floats(ALL, FFN, times=6) + floats(SEQUENCES * TARGETS, FFN, times=6),
)
_HEADS = (SEQUENCES, 2)  # of BERT-like ones


def distances(rows, kinds):
    """DeBERTa's scores against a table of distances, in each layer, by how many kinds of them."""
    times = LAYERS * kinds
    return (
        Why(
            "the table's projections, a copy for each sequence",
            floats(*_HEADS, rows, 4, times=times),
            floats(2, rows, 4, times=times),
        ),
        Why("of what is gathered", floats(*_HEADS, TOKENS, rows, times=times)),
        Why("places, once more in each layer", ids(TOKENS, TOKENS, times=times - 1)),
        Why("masks", storages("bool", SEQUENCES, TOKENS, TOKENS, times=LAYERS) + floats(ALL)),
        Why("scales, as tensors", floats(1, times=LAYERS * (1 + kinds))),
        # queries' products read keys that are scaled; the keys themselves are read by their own kind of scores
        Why("keys, scaled", floats(ALL, WIDTH, times=LAYERS), floats(ALL, WIDTH, times=LAYERS * (2 - kinds))),
    )


TURNED = Why(
    "q and k, parts in one tensor, the turned one of k for all heads",
    floats(ALL, 4 * 6, times=2 * LAYERS) + floats(ALL, 6 + 4, times=LAYERS),
    floats(ALL, 4 * 2, times=2 * LAYERS)
    + floats(ALL, 4 * 4, times=LAYERS)
    + floats(ALL, 4, times=LAYERS)
    + floats(ALL, 6, times=LAYERS),
)
COMPLEX = Why("rotations as complex numbers", storages("complex64", TOKENS, 2), floats(TOKENS, 4, times=2))
GROUPS = Why(
    "which groups are kept: their places and a mask",
    ids(ALL) + storages("bool", ALL, 4),
)
EXPLAINED = {
    "opt": (LOSS, ROW_OF_IDS),
    "opt projected": (LOSS, ROW_OF_IDS),
    "phi3": (LOSS, repeated(4, 2, 4), packed(ALL, FFN)),
    "gpt_neox": (LOSS,),
    "gpt_neox one after another": (LOSS,),
    "falcon": (LOSS, repeated(4, 1, 4), SPLIT),
    "falcon newer": (LOSS, repeated(4, 2, 4), SPLIT),
    "falcon one after another": (LOSS,),
    **{name: (LOSS, repeated(4, 2, 2)) for name in ("olmo2", "smollm3", "granite", "starcoder2")},
    "qwen2_moe": (LOSS, repeated(4, 2, 2), packed(CHOSEN, 8, 1), ROUTED, permuted(1)),
    "qwen3_moe": (LOSS, repeated(4, 2, 6), packed(CHOSEN, 8), ROUTED, ROUTED, permuted(2), normalized(2)),
    "gpt_oss": (
        LOSS,
        repeated(4, 2, 6),
        packed(CHOSEN, FFN),
        ROUTED,
        ROUTED,
        permuted(2, lookups=4),
        Why("clamped SwiGLU op by op, one kernel here", floats(CHOSEN, FFN, times=4 * LAYERS)),
        Why("softmax with the sink", floats(4, ALL, TOKENS + 1, times=2), floats(4, ALL, TOKENS, times=2)),
        Why("places of the largest scores", ids(4, ALL, times=LAYERS)),
        Why("gates, sorted by expert", floats(CHOSEN, times=LAYERS)),
        Why("rotary tables, half as wide", floats(TOKENS, 3, times=2), floats(TOKENS, 6, times=2)),
    ),
    "deepseek_v2": (LOSS, TURNED, COMPLEX, packed(CHOSEN, 8, 1), ROUTED, permuted(1)),
    "deepseek_v2 groups": (
        *(LOSS, TURNED, COMPLEX, packed(CHOSEN, 8, 1), ROUTED, permuted(1), GROUPS),
        Why("places of groups' largest", ids(ALL, 2)),
    ),
    "deepseek_v3": (
        *(LOSS, TURNED, packed(CHOSEN, 8, 1), ROUTED, permuted(1), normalized(1, more=1), GROUPS),
        Why("places of groups' two largest", ids(ALL, 2, 2)),
    ),
    "distilbert": (LOSS, BUFFER_IDS),
    "distilbert classes": (LOSS, BUFFER_IDS, FIRST),
    "electra": (BUFFER_IDS, TYPES, Why("targets, as floats in PyTorch", floats(ALL), ids(ALL))),
    "electra words": (LOSS, BUFFER_IDS, TYPES),
    "electra classes": (LOSS, BUFFER_IDS, TYPES, FIRST),
    "mbart": (LOSS, TARGET_ROW),
    "vit": (
        LOSS,
        Why("the last hidden state, of which the first token is a view", floats(20, WIDTH), floats(2, WIDTH)),
    ),
    "t5": (LOSS,),
    "t5 1.1": (LOSS, NEW_GELU),
    "mt5": (LOSS, NEW_GELU),
    "modernbert": (LOSS, packed(ALL, FFN, 4)),
    "modernbert classes": (LOSS, packed(ALL, FFN, 4), Why("numbers of tokens", ids(SEQUENCES))),
    "deberta-v2": (LOSS, *distances(6, 2)),
    "deberta-v2 convolution": (
        *(LOSS, *distances(6, 2)),
        Why("the convolution's mask", storages("bool", ALL)),
        Why("the convolution's input, a copy with channels first", floats(ALL, WIDTH)),
    ),
    "deberta-v2 classes": (
        *(LOSS, BUFFER_IDS, FIRST, *distances(18, 1)),
        Why("labels that are there, gathered", ids(SEQUENCES) + floats(SEQUENCES, 3)),
    ),
    "whisper": (LOSS,),
}
ONE_KERNEL = ("starcoder2",)  # gelu_pytorch_tanh; others have gelu_new op by op, or no such activation


def graph_of(folder, name):
    """The graph of a tiny model, as transformers runs it."""
    fused = "true" if name in ONE_KERNEL else "false"
    ways = ("model.attention=eager", f"model.fused_activation={fused}", "model.scaled=scores")
    return tiny(Path(folder), STORED["models"][name], *ways, whole=False).graph


def kept(graph):
    places = memory(graph, assign(graph, shipped_policy("fp32")), "unfused").activations
    return Counter((place.size_bytes, DTYPES[place.format.name]) for place in places)


def saved(name):
    """What autograd keeps."""
    split = {key: key.split() for key in SAVED[name]}
    return Counter({(int(split[key][0]), split[key][1]): number for key, number in SAVED[name].items()})


def total(counted):
    return sum(size * number for (size, _), number in counted.items())


@pytest.mark.parametrize("name", SAVED)
def test_saved_bytes_are_pytorchs_storage_by_storage(name, tmp_path):
    """But for those that are named, each with its size and number."""
    ours, theirs = kept(graph_of(tmp_path, name)), saved(name)
    for why in EXPLAINED[name]:
        ours += why.theirs
        theirs += why.ours
    assert {"only PyTorch's": theirs - ours, "only ours": ours - theirs} == {
        "only PyTorch's": Counter(),
        "only ours": Counter(),
    }


def row(name, folder):
    """A row of the table. Parameters and FLOPs are those of transformers: test_imported_models."""
    stored, graph, off = STORED["models"][name], graph_of(folder, name), Counter()
    for why in EXPLAINED[name]:
        off[why.text] += total(why.ours) - total(why.theirs)
    texts = "; ".join(f"{text} {number:+,}" for text, number in off.items() if number)
    numbers = [stored[field] for field in ("parameters", "flops_forward", "flops_backward")]
    cells = [f"{number:,}" for number in (*numbers, total(saved(name)), total(kept(graph)))]
    return f"| {' | '.join([name, stored['class'], *cells, texts])} |"


@pytest.mark.parametrize("name", SAVED)
def test_the_table_of_the_docs_says_it(name, tmp_path):
    assert row(name, tmp_path) in (Path(__file__).parents[1] / "docs" / "trust.md").read_text().splitlines()


def main():
    heads = ("parameters", "FLOPs forward", "FLOPs backward", "saved bytes", "costsim's", "what differs")
    print(f"| {' | '.join(['model', 'class', *heads])} |")
    print(f"|{'---|' * 8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in SAVED:
            print(row(name, folder))


if __name__ == "__main__":
    main()
