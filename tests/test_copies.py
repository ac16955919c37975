"""Rules that name no format: what they change of the copies that the rules before them chose. Worked out by hand."""

from fnmatch import fnmatch

import pytest
from conftest import ENCODERS, STEPS, copies_of, counted, formats_of, moves, policy, shipped_policy

from costsim.cost.laws import LAWS
from costsim.cost.totals import sum_rows
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.graph.fusion import UNTILED
from costsim.names import SCOPES
from costsim.policy.assign import assign
from costsim.policy.load import load_policy

BASE = {"format": "fixed16"}
COPY = {
    "copy": "operand",
    "op": "layer.second",
    "operand": ("x",),
}  # of layer.relu[4, 3], what `linear` multiplies last
RAW, INT8 = 12 * 16, 12 * 8 + 32  # bits of layer.relu, and of a copy with one fp32 scale
CAST = "layer.relu@operand.int8.stored.cast"

# What is moved of layer.relu and its copies: by the op that makes it, by a pass of its own, by the GEMM.
WHOLE_TENSOR = {
    ("on_chip", "delayed"): [("layer.relu", RAW, "w"), ("layer.second", RAW, "r")],
    ("on_chip", "current"): [("layer.relu", RAW, "w"), ("layer.second", 2 * RAW, "r")],
    ("stored", "delayed"): [("layer.relu", RAW, "w"), (CAST, RAW, "r"), (CAST, INT8, "w"), ("layer.second", INT8, "r")],
    ("stored", "current"): [
        ("layer.relu", RAW, "w"),
        (CAST, 2 * RAW, "r"),
        (CAST, INT8, "w"),
        ("layer.second", INT8, "r"),
    ],
    ("at_producer", "delayed"): [("layer.relu", INT8, "w"), ("layer.second", INT8, "r")],
    # The producer finds the scale while it writes the raw tensor; a pass over that writes the copy.
    ("at_producer", "current"): [
        ("layer.relu", RAW, "w"),
        (CAST, RAW, "r"),
        (CAST, INT8, "w"),
        ("layer.second", INT8, "r"),
    ],
}


def of_the_copy(graph, *rules):
    """What is moved of layer.relu and its copies: (op, bits, read or written)."""
    return [
        (op, bits, way)
        for op, things in moves(counted(graph, policy(BASE, *rules))).items()
        for name, both in things.items()
        for bits, way in zip(both, "rw", strict=True)
        if name.startswith("layer.relu") and bits
    ]


@pytest.mark.parametrize(("placement", "scale_time"), WHOLE_TENSOR)
def test_scales_over_a_whole_tensor(linear, placement, scale_time):
    how = {"placement": placement, "scale_time": scale_time}
    at_once = of_the_copy(linear, {**COPY, "format": "int8", **how})
    one_by_one = of_the_copy(
        linear, {**COPY, "format": "int8"}, *({"copy": "operand", name: value} for name, value in how.items())
    )
    assert at_once == one_by_one == WHOLE_TENSOR[placement, scale_time]


@pytest.mark.parametrize("placement", ["on_chip", "stored", "at_producer"])
@pytest.mark.parametrize("name", ["fixed8", "bfp4", "bfp4-box1", "int8-row", "int8-1x128", "mxfp8"])
def test_smaller_blocks_know_their_scales_at_once(linear, name, placement):
    rule = {**COPY, "format": name, "placement": placement}
    assert of_the_copy(linear, rule, {"copy": "operand", "scale_time": "current"}) == of_the_copy(linear, rule)


@pytest.mark.parametrize(
    "name", ["int8", "int8-asym", "int8-column", "fp8-e4m3-tensor", "nvfp4", "nvfp4-16x16", "flex16"]
)
def test_which_formats_need_the_whole_tensor(linear, name):
    """As on_chip: what the GEMM reads tells once from twice. A column of the operand has one element of each row."""
    rule = {**COPY, "format": name}
    reads = [of_the_copy(linear, {**rule, "scale_time": when})[-1] for when in ("delayed", "current")]
    assert reads == [("layer.second", RAW, "r"), ("layer.second", 2 * RAW, "r")]


def test_the_last_rule_that_says_where_a_copy_lives_wins(linear):
    rules = [{**COPY, "format": "int8", "placement": "stored"}, {"copy": "operand", "placement": "at_producer"}]
    assert of_the_copy(linear, *rules) == WHOLE_TENSOR["at_producer", "delayed"]
    # A later rule with a format says all anew.
    assert of_the_copy(linear, *rules, {**COPY, "format": "int8"}) == WHOLE_TENSOR["on_chip", "delayed"]


def test_placement_changes_only_the_copies_that_it_selects(linear):
    both = policy(
        BASE,
        {"copy": "operand", "operand": ("x",), "format": "int8"},
        {"copy": "operand", "op": "*.first", "placement": "stored"},
    )
    placed = {op: [copy.placement for copy in chain] for (op, _), chain in copies_of(linear, both).items()}
    assert placed == {"layer.first": ["stored"], "layer.second": ["on_chip"]}


@pytest.mark.parametrize(
    ("field", "glob"),
    [
        ("op", "*.self_attention.k"),  # q, k and v read one tensor alike
        ("op", "*.1.*.dw"),
        ("layer", "*.1"),  # keys of all decoder layers read the encoder's result alike
        ("layer", "*coder.0"),
        ("name", "*.ffn_norm"),
        ("name", "*.0.*.weight"),
    ],
)
def test_globs_select_reads(step, field, glob):
    graph = step()
    looked_at = {
        (op.name, i): {"op": op.name, "layer": op.layer, "name": name}[field]
        for op in graph.ops
        if op.gemm
        for i, name in enumerate(op.inputs)
    }
    chains = copies_of(graph, policy(BASE, {"copy": "operand", field: glob, "format": "fixed4"}))
    assert list(chains) == [read for read, text in looked_at.items() if fnmatch(text, glob)] != []


def test_a_rule_without_format_that_finds_no_copy_matches_nothing(linear):
    placed = {"copy": "operand", "placement": "stored"}
    with pytest.raises(InputError, match="this rule matches nothing"):
        assign(linear, policy(BASE, placed))
    assert not copies_of(linear, policy(BASE, {**placed, "optional": True}))


# --- containers -------------------------------------------------------------------------------------------------------

ROWS = {**COPY, "format": "int8-row", "placement": "stored"}
IN_BF16 = {"copy": "operand", "container": "bf16"}


def test_a_container_is_stored_and_multiplied(linear):
    rows = counted(linear, policy(BASE, ROWS, IN_BF16))
    copy = "layer.relu@operand.int8-row-in-bf16.hidden.stored"  # of the values' blocks
    assert moves(rows)[f"{copy}.cast"] == {"layer.relu": (RAW, 0), copy: (0, 12 * 16)}  # no scales
    assert moves(rows)["layer.second"][copy] == (12 * 16, 0)
    multiplied, _, _ = rows[-1].pair
    assert multiplied == parse_format("int8-row-in-bf16")
    assert (multiplied.element_bits, multiplied.bits_per_element, multiplied.width) == (16, 16, 8)
    assert rows[-1].macs * 8 * 16 == sum_rows(rows[-1:], "product").arithmetic_cost


def test_container_none_undoes_it(linear):
    plain = of_the_copy(linear, ROWS)
    assert plain[-1] == ("layer.second", 12 * 8 + 4 * 32, "r")
    assert of_the_copy(linear, ROWS, IN_BF16, {"copy": "operand", "container": "none"}) == plain
    assert of_the_copy(linear, {**ROWS, "format": "int8-row-in-bf16"}, {**IN_BF16, "container": "none"}) == plain
    assert of_the_copy(linear, ROWS, {"copy": "operand", "container": "none"}) == plain


def test_the_last_container_is_the_one(linear):
    assert of_the_copy(linear, ROWS, {**IN_BF16, "container": "fp32"}, IN_BF16) == of_the_copy(linear, ROWS, IN_BF16)


def test_tensors_may_be_stored_in_containers_too(linear):
    formats = formats_of(linear, policy({"format": "fixed8"}, {"role": ("weight",), "container": "bf16"}))
    names = {linear.tensors[name].role: format.name for name, format in formats.items()}
    assert names == {"weight": "fixed8-in-bf16", "activation": "fixed8"}


@pytest.mark.parametrize(
    ("grid", "container"), [("int16", "bf16"), ("fp32", "bf16"), ("fixed16", "int8"), ("bf16", "fp16")]
)
def test_a_container_must_hold_the_values(linear, grid, container, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        f"description: x\nrules:\n  - {{format: {grid}}}\n  - {{role: [weight],\n     container: {container}}}\n"
    )
    with pytest.raises(InputError, match=f"p.yaml:5:6: rules.1.container: {container} does not hold the .* {grid}$"):
        assign(linear, load_policy(path))


# --- a quantizer as it was coded, and as it would be deployed ---------------------------------------------------------

CODED, DEPLOYED = "w8a8+as-coded", "w8a8+deployed"


def totals(graph, name, law="product", traffic="unfused", scope="step"):
    return sum_rows(counted(graph, shipped_policy(name), traffic, scope), law)


@pytest.mark.parametrize("law", LAWS)
def test_fake_quantization_saves_no_arithmetic(step, law):
    graph = step(dropout=0.1)
    costs = [totals(graph, name, law).arithmetic_cost for name in (CODED, "bf16-mixed")]
    assert costs[0] == costs[1]
    assert (costs[0] is None) == (law in ("msfp", "hbfp", "fast", "energy"))  # which say nothing of bf16


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("traffic", UNTILED)
def test_fake_quantization_moves_no_less_than_the_real_one(step, traffic, scope):
    graph = step(dropout=0.1, micro_batches=2)
    coded, deployed = (totals(graph, name, traffic=traffic, scope=scope).dram_bits for name in (CODED, DEPLOYED))
    assert coded > deployed


@pytest.mark.parametrize("family", ENCODERS)
def test_deployed_copies_are_int8_at_their_producers_and_coded_ones_bf16_in_a_pass(family):
    graph = STEPS[family]()
    for name, its_format, placement in ((CODED, "int8-row-in-bf16", "stored"), (DEPLOYED, "int8-row", "at_producer")):
        chain = copies_of(graph, shipped_policy(name))["encoder.0.ffn.fc1", 0]
        assert [(copy.format.name, copy.placement) for copy in chain] == [(its_format, placement)]
