"""Hadamard transforms of what GEMMs read: exact products, additions counted, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import TRANSFORMING, copies_of, counted, decoder_step, miscounts, policy, shipped_policy, translation_step
from test_compile import CONVENTIONS, agree
from test_explain import all_differences

from costsim.errors import InputError
from costsim.formats import hadamard
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.policy.assign import assign
from costsim.policy.groups import groups_of, space_of
from costsim.policy.load import make_policy
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.shrink import shrink
from costsim.run.job import Request, prepare

BF16 = {"format": "bf16"}
LINEAR = ("*_attention.scores*", "*_attention.context*", "head.*")
TURNED = {"gemm": ("wgrad",), "not_op": LINEAR, "format": "nvfp4", "transform": "hadamard16"}
WGRAD = ({"copy": "stash", "operand": ("x",), **TURNED}, {"copy": "operand", "operand": ("dy",), **TURNED})
BATCH = {"sequences": 2, "tokens": 8}


def sylvester(n):
    """The matrix by its definition: a Kronecker power."""
    matrix = np.array([[1]])
    while len(matrix) < n:
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    return matrix


@pytest.mark.parametrize("block", [2, 4, 16, 64])
@pytest.mark.parametrize("axes", [(1,), (0, 2), (2, 0)])
def test_it_is_a_product_with_the_matrix(block, axes):
    x = np.random.default_rng(0).standard_normal((16, 64, 4))
    made, adds = hadamard.transformed(x, block, axes)
    last = tuple(range(3 - len(axes), 3))
    rows = np.moveaxis(x, axes, last).reshape(-1, block)
    by_hand = rows @ sylvester(block).T / np.sqrt(block)
    assert np.allclose(np.moveaxis(made, axes, last).reshape(-1, block), by_hand)
    assert adds == x.size * hadamard.adds_per_element(block)
    assert 2 ** hadamard.adds_per_element(block) == block


def fractions(rng, shape):
    return np.array([Fraction(int(n), 7) for n in rng.integers(-50, 50, np.prod(shape))], object).reshape(shape)


@pytest.mark.parametrize("block", [4, 16])
def test_a_product_is_the_same_in_exact_arithmetic(block):
    """dw = x^T dy over sequences x tokens, in fractions: equal, not near."""
    rng = np.random.default_rng(1)
    x, dy = fractions(rng, (2, 8, 3)), fractions(rng, (2, 8, 5))
    turned, _ = hadamard.transformed(x, block, (0, 1))
    other, _ = hadamard.transformed(dy, block, (0, 1))
    product = np.einsum("bti,bto->io", x, dy)
    assert (np.einsum("bti,bto->io", turned, other) == product).all()
    assert (np.einsum("bti,bto->io", turned, dy) != product).any()


def gradients(graph, rules):
    rng = np.random.default_rng(0)
    weights, batches = draw_weights(graph, rng), [draw_batch(graph, rng)]
    done = run(graph, weights, batches, assignment=assign(graph, rules))
    names = sorted(t.name for t in graph.tensors.values() if t.role == "weight_gradient")
    return {name: done.values[name].astype(np.float64) for name in names}


def test_the_reference_multiplies_what_is_transformed():
    """In formats that round next to nothing gradients are those without; in 4 bits they are others."""
    graph = decoder_step(batch=BATCH)
    fine = [{**rule, "format": "fp32"} for rule in WGRAD]
    plain, turned = gradients(graph, policy({"format": "fp32"})), gradients(graph, policy({"format": "fp32"}, *fine))
    for name, gradient in plain.items():
        assert np.allclose(turned[name], gradient, rtol=1e-4, atol=1e-6 * abs(gradient).max()), name
    four = [{name: value for name, value in rule.items() if name != "transform"} for rule in WGRAD]
    without, with_ = gradients(graph, policy(BF16, *four)), gradients(graph, policy(BF16, *WGRAD))
    assert any(not np.array_equal(with_[name], gradient) for name, gradient in without.items())


def test_outliers_are_spread():
    """One large number in a block of 16 takes the others' bits in 4-bit blocks, not after a rotation (QuaRot)."""
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    x[:, 3] = 40
    mxfp4 = parse_format("mxfp4")
    turned, _ = hadamard.transformed(x, 16, (1,))
    back, _ = hadamard.transformed(quantize(turned, mxfp4), 16, (1,))
    small = np.arange(16) != 3
    assert np.mean(quantize(x, mxfp4)[:, small] == 0) > 0.9 > np.mean(back[:, small] == 0)


STEPS = {"decoder": decoder_step(batch=BATCH, micro_batches=2), "translation": translation_step(
    batch={"sequences": 4, "source_tokens": 4, "target_tokens": 8})}  # fmt: skip


@pytest.mark.parametrize("placement", ["at_producer", "on_chip", "stored", "transient"])
@pytest.mark.parametrize("family", STEPS)
def test_counted_derived_and_measured_alike(family, placement):
    rules = policy(BF16, *({**rule, "placement": placement} for rule in WGRAD))
    assert all_differences(STEPS[family], rules) == []
    assert miscounts(STEPS[family], rules) == []


def test_a_transform_costs_its_additions_and_moves_nothing():
    graph = STEPS["decoder"]
    plain = [{name: value for name, value in rule.items() if name != "transform"} for rule in WGRAD]

    def total(*rules):
        rows = counted(graph, policy(BF16, *({**rule, "placement": "on_chip"} for rule in rules)))
        adds = sum(len(row.ops) * row.vector.get("add", 0) for row in rows)
        return adds, sum(len(row.ops) * (move.read_bits + move.written_bits) for row in rows for move in row.moves)

    transformed = [op for op in graph.ops if op.gemm == "wgrad" and not op.name.startswith("head") and linear(op)]
    elements = sum(graph.elements(graph.tensors[name].dims) for op in transformed for name in op.inputs[:2])
    (before, bits), (after, same) = total(*plain), total(*WGRAD)
    assert after - before == 4 * elements * graph.micro_batches  # log2 of 16
    assert same == bits


def linear(op):
    return "_attention.scores" not in op.name and "_attention.context" not in op.name


WIDE = decoder_step(d_model=64, ffn_dim=64, max_positions=16, batch={"sequences": 4, "tokens": 16})


@pytest.mark.parametrize("name", TRANSFORMING)
def test_shipped_policies_are_derived_and_compiled_as_they_are_counted(name):
    """On dims with whole blocks; test_recipes has what the reference measures, on three families."""
    shipped = shipped_policy(name)
    assert all_differences(WIDE, shipped) == []
    space = space_of(shipped, groups_of(WIDE, shipped, ("gemm",), ("operand",)), ("fp8-e4m3", "fp32"))
    agree(WIDE, space, CONVENTIONS[:3], laws=("product",), tried=2)


def test_labels_say_it():
    chains = copies_of(STEPS["decoder"], policy(BF16, *WGRAD))
    labels = {copy.label for chain in chains.values() for copy in chain}
    assert labels == {f"@{copy}.nvfp4.batch+tokens.hadamard16" for copy in ("stash", "operand")}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (WGRAD[:1], "is transformed in blocks of 16, .* not at all; the product would be another"),
        (WGRAD[1:], "not at all, .* in blocks of 16"),
        ((WGRAD[0], {**WGRAD[1], "transform": "hadamard8"}), "in blocks of 16, .* in blocks of 8"),
        ([{**rule, "transform": "hadamard32"} for rule in WGRAD], "blocks of 32 do not divide the 16 elements along"),
        ([{**WGRAD[0], "not_op": LINEAR[2:]}, {**WGRAD[1], "not_op": LINEAR[2:]}], "blocks of 16 do not divide"),
        ([{"copy": "stash", "format": "nvfp4", "transform": "hadamard2"}], "by an op that is no GEMM"),
        ([WGRAD[0], {**WGRAD[0], "copy": "operand", "placement": "on_chip"}, WGRAD[1]], "as a stash already"),
    ],
)
def test_what_is_refused(rules, message):
    with pytest.raises(InputError, match=f"rules.[0-9].transform: .*{message}"):
        assign(decoder_step(batch=BATCH), policy(BF16, *rules))


def test_pairs_that_do_not_meet_fill_no_blocks():
    job = prepare(Request("gpt2-small", assignments=("attention_pairs=causal", "model.layers=1")))
    scores = {
        "copy": "operand",
        "gemm": ("forward",),
        "op": "*.context",
        "format": "fp8-e4m3",
        "transform": "hadamard8",
    }
    with pytest.raises(InputError, match="pairs of tokens that do not meet"):
        assign(job.graph, policy(BF16, scores))


@pytest.mark.parametrize("name", ["hadamard12", "hadamard1", "hadamard", "rotation16", "hadamard65536"])
def test_names_that_are_none(name):
    with pytest.raises(InputError, match="expected hadamardN, N a power of two"):
        policy(BF16, {"copy": "stash", "transform": name})


def test_a_tensor_has_none_and_a_later_rule_undoes_it():
    with pytest.raises(InputError, match="only a copy has a transform"):
        policy({"format": "bf16", "transform": "hadamard16"})
    undone = policy(BF16, *WGRAD, {"copy": "stash", "gemm": ("wgrad",), "transform": "none"},
                    {"copy": "operand", "gemm": ("wgrad",), "transform": "none"})  # fmt: skip
    chains = copies_of(STEPS["decoder"], undone)
    assert not any(copy.transform for chain in chains.values() for copy in chain)


def test_shrunken_copies_have_whole_blocks_where_the_workload_has():
    for name in ("gpt2-small", "iwslt17-dsq"):
        job = prepare(Request(name, ["nvfp4-pretrain"]))
        assign(shrink(job), job.policies[0])
    plain = shrink(prepare(Request("gpt2-small", ["bf16-mixed"])))
    assert any(size % 2 for size in plain.sizes.values())


def test_a_search_keeps_transforms():
    """Formats of groups vary, places and transforms stay."""
    base = make_policy("base", {"description": "d", "rules": [BF16, *WGRAD]})
    groups = groups_of(STEPS["decoder"], base, ("gemm",), ("operand", "stash"))
    point = space_of(base, groups, ("mxfp4", "fp32")).point(dict.fromkeys(range(len(groups)), 0))
    chains = copies_of(STEPS["decoder"], point)
    of_wgrad = {copy.format.name for chain in chains.values() for copy in chain if copy.transform}
    assert of_wgrad == {"mxfp4"}
