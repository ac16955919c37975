"""What papers print of training on many devices, against what is counted: memory of ZeRO, activations of Megatron-LM.

Bubbles of pipelines are in tests/test_pipeline.py.
"""

from fractions import Fraction

import pytest
from test_activations import SIZES, of_layer, run_json, workload

import costsim
from costsim.cost.memory import memory
from costsim.policy.assign import assign
from costsim.run.job import Request, prepare

# --- Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, sections 3.1 and 5, figure 1 ------------------------------------

RANKS, PARAMETERS = 64, 7_500_000_000  # of figure 1
HELD = ("weights", "master_weights", "gradients", "optimizer_states")
ZERO = {  # by stage: bytes of a parameter that each rank has, and those that ranks share; GB of figure 1
    0: (16, 0, 120.0),
    1: (4, 12, 31.4),
    2: (2, 14, 16.6),
    3: (0, 16, 1.9),
}


@pytest.fixture(scope="module")
def as_in_the_paper():
    """Gradients in 16 bits; master weights of 32, and of each weight a copy of 16 that stays, as GEMMs read it."""
    policy = costsim.load_policy("bf16-mixed").with_(role="weight_gradient", format="bf16")
    policy = policy.with_(role="weight", name="*.share", format="fp32", optional=True)
    gathered = {"copy": "operand", "collective": ["all_gather"], "role": "weight", "format": "bf16"}
    return policy, policy.with_(**gathered, placement="stored", optional=True)


@pytest.mark.parametrize("zero", ZERO)
def test_states_take_what_figure_1_says(zero, as_in_the_paper):
    """With zero 3 a share in 16 bits stays beside that in 32, as in the paper; with 1 and 2 the gathered weight is it.

    Vectors and the embedding are no operands of GEMMs, so of them there is no copy with zero 0.
    """
    sets = [f"parallel={{data: {RANKS}, zero: {zero}}}", "training.micro_batches=4"]
    graph = prepare(Request("llama-small", assignments=sets)).graph
    one = prepare(Request("llama-small")).graph
    held = memory(graph, assign(graph, as_in_the_paper[zero == 3]), "unfused")
    bytes_ = sum(held.components[name] for name in HELD)
    uncopied = [of for of in one.weights if len(of.dims) == 1 or of.name.startswith("embedding")]
    bytes_ += 2 * sum(one.elements(of.dims) for of in uncopied) if zero == 0 else 0
    whole, shared, printed_gb = ZERO[zero]
    each = Fraction(bytes_, one.parameters)
    assert each == whole + Fraction(shared, RANKS)  # 64 divides all
    assert round(float(each * PARAMETERS) / 1e9, 1) == printed_gb


# --- Korthikanti et al. 2022, arXiv:2205.05198, table 2 and sections 4.2 and 5 ----------------------------------------

TENSOR = {  # by checkpointing and sequence parallelism: bytes of a layer on each of t ranks
    ("none", False): lambda s, b, h, a, t: s * b * h * (10 + Fraction(24, t)) + Fraction(5 * a * s * s * b, t),
    ("none", True): lambda s, b, h, a, t: Fraction(34 * s * b * h + 5 * a * s * s * b, t),
    ("selective", False): lambda s, b, h, a, t: s * b * h * (10 + Fraction(24, t)),
    ("selective", True): lambda s, b, h, a, t: Fraction(34 * s * b * h, t),
    ("full", False): lambda s, b, h, a, t: 2 * s * b * h,
    ("full", True): lambda s, b, h, a, t: Fraction(2 * s * b * h, t),
}


def split(ranks, sequence, **more):
    fields = {"tensor": ranks, "sequence": str(sequence).lower(), **more}
    return [word for name, value in fields.items() for word in ("--set", f"parallel.{name}={value}")]


@pytest.mark.parametrize(("checkpointing", "sequence"), TENSOR)
@pytest.mark.parametrize(("size", "ranks"), [("small", 2), ("small", 3), ("GPT-3", 8)])
def test_a_layer_keeps_on_each_rank_what_table_2_says(size, ranks, checkpointing, sequence, tmp_path):
    """To the byte, but for the statistics of two norms, which the paper leaves out."""
    sizes = {**SIZES[size], "s": 36} if ranks == 3 else SIZES[size]
    path = workload(tmp_path / "paper.yaml", **sizes, checkpointing=checkpointing, vocab=24)
    row = run_json(path, *split(ranks, sequence))
    positions = sizes["s"] // ranks if sequence else sizes["s"]
    statistics = 0 if checkpointing == "full" else 2 * 2 * 2 * positions * sizes["b"]
    for i in range(3):
        expected = TENSOR[checkpointing, sequence](**sizes, t=ranks)
        assert of_layer(row, f"decoder.{i}") == (expected, statistics)


def test_layers_of_gpt_3_on_8_ranks_are_to_the_byte():
    """A layer of 175 billion parameters, s = 2048, b = 1."""
    bytes_ = {key: of(**SIZES["GPT-3"], t=8) for key, of in TENSOR.items()}
    assert bytes_["none", False] == 578_813_952
    assert bytes_["none", True] == 358_612_992
    assert bytes_["selective", False] == 327_155_712
    assert bytes_["selective", True] == 106_954_752


def test_the_first_stage_of_gpt_3_keeps_as_much_as_all_layers(tmp_path):
    """Section 4.2.3: p micro-batches are in flight in the first of p stages of L / p layers, so it keeps those of L.

    A layer's input is the result of the layer before, of the first layer that of the embedding's dropout. Beside layers
    the paper has that dropout's mask, sbh p / t (section 4.3); we have ids, of 8 bytes, and statistics of norms.
    """
    path = workload(tmp_path / "paper.yaml", **SIZES["GPT-3"], layers=96, vocab=24)
    sets = ["parallel={pipeline: 8, tensor: 8}", "training.micro_batches=16"]
    graph = prepare(Request(path, assignments=sets)).graph
    kept = memory(graph, assign(graph, costsim.load_policy("bf16-mixed")), "unfused").activations
    beside = (".mean", ".rstd", ".ids", "embedding.dropout.mask")
    of_layers = sum(place.size_bytes for place in kept if not place.name.endswith(beside))
    mask = sum(place.size_bytes for place in kept if place.name == "embedding.dropout.mask")
    s, b, h, _ = SIZES["GPT-3"].values()
    assert graph.in_flight * of_layers == 96 * TENSOR["none", True](**SIZES["GPT-3"], t=8) == 34_426_847_232
    assert graph.in_flight * mask == s * b * h * 8 // 8
