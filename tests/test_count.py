"""Counting: tiny graphs worked out by hand, and relations that must hold for every graph and policy."""

from dataclasses import replace

import pytest
from conftest import (
    ENCODERS,
    POLICIES,
    STEPS,
    adamw,
    copies_of,
    counted,
    formats_of,
    moves,
    of_each_op,
    pairs,
    policy,
    shipped_policy,
    translation_step,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.cost.totals import GROUPINGS, Total, group, sum_rows
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import COMPARED, UNTILED
from costsim.graph.graph import Graph
from costsim.inputs import schema_policy
from costsim.inputs.widths import Widths
from costsim.names import SCOPES
from costsim.policy.assign import assign
from costsim.policy.schedule import schedule


def test_unfused_every_op_reads_its_inputs_and_writes_its_outputs(linear):
    rows = counted(linear, policy({"format": "fixed8"}))
    assert moves(rows) == {
        "layer.first": {
            "layer.x": (4 * 20 * 8, 0),
            "layer.first.weight": (20 * 3 * 8, 0),
            "layer.first": (0, 4 * 3 * 8),
        },
        "layer.relu": {"layer.first": (4 * 3 * 8, 0), "layer.relu": (0, 4 * 3 * 8)},
        "layer.second": {
            "layer.relu": (4 * 3 * 8, 0),
            "layer.second.weight": (3 * 5 * 8, 0),
            "layer.second": (0, 4 * 5 * 8),
        },
    }
    assert [row.macs for row in rows] == [4 * 20 * 3, 0, 4 * 3 * 5]
    assert [dict(row.vector) for row in rows] == [{}, {"cmp": 12}, {}]


def test_fused_tensors_born_and_consumed_in_a_kernel_stay_on_chip(linear):
    found = moves(counted(linear, policy({"format": "fixed8"}), "fused"))
    assert "layer.first" not in found["layer.first"]  # relu is the epilogue of the GEMM
    assert found["layer.relu"] == {"layer.relu": (0, 4 * 3 * 8)}
    assert found["layer.second"]["layer.relu"] == (4 * 3 * 8, 0)  # a GEMM starts a kernel


OPERAND = {"copy": "operand", "gemm": ("forward",), "operand": ("x",), "format": "bfp4"}


def test_at_producer_copies_replace_the_raw_tensor(linear):
    found = moves(counted(linear, policy({"format": "fixed16"}, {**OPERAND, "placement": "at_producer"})))
    copy = "layer.relu@operand.bfp4.hidden"
    bits = 12 * 4 + 4 * 8  # four rows of three elements, a partial box each
    assert found["layer.relu"] == {"layer.first": (12 * 16, 0), copy: (0, bits)}  # the raw tensor is not written
    assert found["layer.second"][copy] == (bits, 0)


def test_on_chip_copies_move_the_source(linear):
    rows = counted(linear, policy({"format": "fixed16"}, {**OPERAND, "placement": "on_chip"}))
    found = moves(rows)
    assert found["layer.relu"]["layer.relu"] == (0, 12 * 16)
    assert found["layer.second"]["layer.relu"] == (12 * 16, 0)
    second = rows[-1]
    assert [format.name for format in second.pair] == ["bfp4", "fixed16", "fp32"]
    assert dict(second.vector) == {"quantize": 12, "cmp": 12}


def test_stored_copies_take_a_pass_of_their_own(linear):
    rows = counted(linear, policy({"format": "fixed16"}, {**OPERAND, "placement": "stored"}))
    found = moves(rows)
    copy = "layer.relu@operand.bfp4.hidden.stored"
    assert found[f"{copy}.cast"] == {"layer.relu": (12 * 16, 0), copy: (0, 12 * 4 + 4 * 8)}
    assert found["layer.relu"]["layer.relu"] == (0, 12 * 16)
    assert found["layer.second"][copy] == (12 * 4 + 4 * 8, 0)
    names = [row.name(op) for op, row in each_op(rows)]
    assert names.index(f"{copy}.cast") < names.index("layer.second")


def test_a_given_tensor_has_no_producer_so_its_copy_takes_a_pass(linear):
    found = moves(counted(linear, policy({"format": "fixed16"}, {**OPERAND, "placement": "at_producer"})))
    copy = "layer.x@operand.bfp4.in"
    assert found[f"{copy}.cast"] == {"layer.x": (80 * 16, 0), copy: (0, 80 * 4 + 4 * 2 * 8)}


def test_boxes_lie_along_what_the_gemm_sums_over(linear):
    rules = policy({"format": "bfp8"}, {"copy": "operand", "format": "bfp8", "placement": "on_chip"})
    copies = copies_of(linear, rules)
    assert [(op, i) for op, i in copies] == [("layer.first", 1), ("layer.second", 1)]  # x and y lie right already
    assert copies["layer.first", 1][0].axes == (0,)


def test_boxes_that_never_cross_a_row_are_the_same_boxes():
    """A GEMM that sums over (heads, head) with 32 elements a head reads boxes of 16 as they are stored along head."""
    b = GraphBuilder({"batch": 2, "heads": 3, "head": 32, "model": 5})
    with b.scope("layer", layer=True):
        x = b.given("x", ("batch", "heads", "head"), role="activation")
        b.linear(x, "out", ("model",), inner=2, bias=False)
    graph = b.build()
    axes = {}
    for name in ("bfp8", "bfp8-box64"):
        rule = {"copy": "operand", "operand": ("x",), "placement": "stored", "format": name}
        copies = copies_of(graph, policy({"format": name}, rule))
        axes[name] = [copy.axes for chain in copies.values() for copy in chain]
    assert axes == {"bfp8": [], "bfp8-box64": [(1, 2)]}  # boxes of 64 cross heads; as stored they begin anew at each


def test_two_axes_of_one_name_are_two_axes():
    """Self attention's probabilities have boxes along queries and along keys, though both dims have one name."""
    graph = translation_step(batch={"source_tokens": 4, "target_tokens": 4})
    written = {}
    for things in moves(counted(graph, shipped_policy("dsq"))).values():
        for name, (_, bits) in things.items():
            if bits and "decoder.0" in name and "attention.softmax@" in name:
                written.setdefault(name.partition(".softmax")[0], []).append(bits)
    assert sorted(written) == ["decoder.0.cross_attention", "decoder.0.self_attention"]
    assert written["decoder.0.cross_attention"] == written["decoder.0.self_attention"]
    assert len(written["decoder.0.self_attention"]) == 2


def test_a_stored_copy_of_a_weight_is_made_once_a_step(model):
    rule = {**OPERAND, "operand": ("w",), "role": ("weight",), "placement": "stored"}
    found = moves(counted(model, policy({"format": "fixed16"}, rule)))
    copy = "encoder.0.ffn.fc1.weight@operand.bfp4.model.stored"
    assert found[f"{copy}.cast"]["encoder.0.ffn.fc1.weight"] == (8 * 12 * 16, 0)  # once, for three micro-batches
    assert found["encoder.0.ffn.fc1"][copy] == (3 * (8 * 12 * 4 + 12 * 8), 0)


def test_a_copy_cannot_be_made_before_its_source(model):
    expected = "made at_producer from a stash that is stored; choose on_chip, stored or transient"
    with pytest.raises(InputError, match=expected):
        assign(
            model,
            policy(
                {"format": "fixed16"},
                {"copy": "stash", "gemm": ("wgrad",), "operand": ("x",), "format": "fixed8", "placement": "stored"},
                {"copy": "operand", "gemm": ("wgrad",), "format": "fixed4", "placement": "at_producer"},
            ),
        )


def test_dropout_stays_in_the_kernel_of_its_linear_layer(model):
    rows = counted(model, shipped_policy("fixed16"), "fused")
    part = "encoder.0.ffn"
    moved = {name for things in moves(rows).values() for name in things}
    assert f"{part}.fc2" not in moved
    assert f"{part}.fc2.add_bias" not in moved
    assert "encoder.0.ffn_dropout" not in moved  # the residual add and the norm follow in the same kernel
    assert "encoder.0.ffn_dropout.mask" in moved  # the backward wants it


def test_flat_copies_equal_to_their_source_are_elided(linear):
    rules = policy({"format": "fixed8"}, {"copy": "operand", "format": "fixed8", "placement": "stored"})
    assert not copies_of(linear, rules)


@pytest.fixture(params=ENCODERS)
def model(request):
    return STEPS[request.param](dropout=0.1, micro_batches=3, optimizer=adamw(clip_norm=1.0))


def test_one_stash_serves_all_that_want_the_same(model):
    rules = policy({"format": "fixed16"}, {"copy": "stash", "gemm": ("wgrad",), "operand": ("x",), "format": "fixed4"})
    copies = copies_of(model, rules)
    name = "encoder.0.self_attention"
    chains = [copies[f"{name}.{part}.dw", 0] for part in "qkv"]
    assert len(chains[0]) == 1
    assert chains[0] == chains[1] == chains[2]
    found = moves(counted(model, rules))
    read = [name for part in "qkv" for name in found[f"encoder.0.self_attention.{part}.dw"] if "@stash" in name]
    written = [op for op, things in found.items() for name, (_, bits) in things.items() if name == read[0] and bits]
    assert len(set(read)) == 1
    assert len(written) == 1


def test_chains_of_stash_and_operand(model):
    rules = policy(
        {"format": "fixed16"},
        {"copy": "stash", "gemm": ("wgrad",), "operand": ("x",), "format": "bfp8"},
        {"copy": "operand", "gemm": ("wgrad",), "operand": ("x",), "format": "bfp4"},
    )
    stash, operand = copies_of(model, rules)["encoder.0.ffn.fc1.dw", 0]
    assert operand.source == stash
    assert stash.axes == (2,)  # stored along the last dim, multiplied along tokens
    assert operand.axes == (0, 1)
    assert operand.placement == "on_chip"
    op, row = next((op, row) for op, row in each_op(counted(model, rules)) if op.name == "encoder.0.ffn.fc1.dw")
    assert row.pair[0].name == "bfp4"
    assert row.moves[0].tensor(op) == f"{op.inputs[0]}@stash.bfp8.model"


def test_weight_copies_are_written_once_a_step_by_the_update(model):
    rules = policy(
        {"format": "fixed16"}, {**OPERAND, "operand": ("w",), "role": ("weight",), "placement": "at_producer"}
    )
    found = moves(counted(model, rules))
    weight = "encoder.0.ffn.fc1.weight"
    copy = f"{weight}@operand.bfp4.model"
    bits = 8 * 12 * 4 + 12 * 8  # 12 columns of 8 elements: a box each
    assert found[f"{weight}.adamw"][copy] == (0, bits)
    assert found["encoder.0.ffn.fc1"][copy] == (3 * bits, 0)  # read in each of three micro-batches


@pytest.mark.parametrize(("model", "name"), pairs(), indirect=["model"])
@pytest.mark.parametrize("traffic", UNTILED)
@pytest.mark.parametrize("scope", SCOPES)
def test_groups_sum_to_the_total(model, name, traffic, scope):
    rows = counted(model, shipped_policy(name), traffic, scope)
    total = sum_rows(rows, "product")
    assert total.dram_bits == sum(m.read_bits + m.written_bits for _, row in each_op(rows) for m in row.moves)
    for by in GROUPINGS:
        assert sum(group([(1, rows)], by, "product").values(), Total()) == total, by


@pytest.mark.parametrize(("model", "name"), pairs(), indirect=["model"])
def test_fused_never_moves_more_than_unfused(model, name):
    for scope in SCOPES:
        unfused = sum_rows(counted(model, shipped_policy(name), "unfused", scope), "product")
        fused = sum_rows(counted(model, shipped_policy(name), "fused", scope), "product")
        assert fused.dram_bits <= unfused.dram_bits
        assert replace_traffic(fused) == replace_traffic(unfused)  # the same work


def replace_traffic(total):
    return replace(total, read_bits=0, written_bits=0, elements=0)


@pytest.mark.parametrize(("model", "name"), pairs(), indirect=["model"])
def test_scopes_are_nested(model, name):
    bits = [sum_rows(counted(model, shipped_policy(name), "unfused", s), "product").dram_bits for s in SCOPES]
    assert bits == sorted(bits)
    macs = {sum_rows(counted(model, shipped_policy(name), "unfused", s), "product").macs for s in SCOPES}
    assert len(macs) == 1  # all MACs are in GEMMs


def float_bits(graph, rules):
    floats = {t.name for t in graph.tensors.values() if t.values == "float"}
    found = moves(counted(graph, rules))
    return sum(sum(bits) for things in found.values() for name, bits in things.items() if name in floats)


def test_halving_the_bits_halves_the_bytes_and_quarters_the_arithmetic(model):
    wide, narrow = shipped_policy("fixed32"), shipped_policy("fixed16")
    assert float_bits(model, wide) == 2 * float_bits(model, narrow)
    costs = [sum_rows(counted(model, p), "product").arithmetic_cost for p in (wide, narrow)]
    assert costs[0] == 4 * costs[1]
    assert sum_rows(counted(model, narrow, scope="gemm"), "product").dram_bits * 2 == (
        sum_rows(counted(model, wide, scope="gemm"), "product").dram_bits
    )


DSQ = shipped_policy("dsq")
GRAPHS = {name: make(dropout=0.1, micro_batches=2) for name, make in STEPS.items()}


def with_levels(policy, numbers):
    file = policy.file.changed(phases=(schema_policy.Phase(levels=numbers),))
    return replace(policy, file=file)


LEVEL = st.integers(2, 14)  # one more is below 16, where copies equal their source and are elided


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(GRAPHS)), st.tuples(LEVEL, LEVEL, LEVEL, LEVEL), st.integers(0, 3), st.sampled_from(SCOPES)
)
def test_more_bits_never_cost_less(family, levels, which, scope):
    graph = GRAPHS[family]
    more = tuple(level + (i == which) for i, level in enumerate(levels))
    if len(set(levels)) < 4 or len(set(more)) < 4:
        return  # equal levels share copies; compare like with like
    totals = [
        sum_rows(count(graph, assign(graph, with_levels(DSQ, numbers)), "unfused", scope), "product")
        for numbers in (levels, more)
    ]
    assert totals[0].dram_bits <= totals[1].dram_bits
    assert totals[0].arithmetic_cost <= totals[1].arithmetic_cost
    assert totals[0].macs == totals[1].macs


@pytest.mark.parametrize("steps", [1, 7, 100, 9100])
def test_phases_sum_to_all_steps_and_splitting_one_changes_nothing(steps):
    assert sum(schedule(DSQ, steps)) == steps
    whole = policy({"format": "fixed<q0>"}, levels=("q0",), phases=({"levels": (4,)},))
    split = policy(
        {"format": "fixed<q0>"},
        levels=("q0",),
        phases=({"levels": (4,), "until_fraction": 0.3}, {"levels": (4,), "until_fraction": 0.7}, {"levels": (4,)}),
    )
    graph = GRAPHS["encoder-classifier"]
    totals = []
    for p in (whole, split):
        phases = enumerate(schedule(p, steps))
        sums = [n * sum_rows(count(graph, assign(graph, p, index)), "product") for index, n in phases]
        totals.append(sum(sums, Total()))
    assert totals[0] == totals[1]


def test_fractions_of_steps_are_exact():
    rules = policy(
        {"format": "fixed<q0>"},
        levels=("q0",),
        phases=({"levels": (2,), "until_fraction": 0.29}, {"levels": (4,)}),
    )
    assert schedule(rules, 100) == [29, 71]  # 0.29 * 100 is 28.999... in floating point


def test_totals_beyond_64_bits_are_exact(linear):
    huge = Graph(dict.fromkeys(linear.sizes, 10**9), linear.tensors, linear.ops)
    rows = counted(huge, policy({"format": "fixed16"}))
    assert sum_rows(rows, "product").macs == 2 * 10**27
    assert sum_rows(rows, "product").arithmetic_cost == 2 * 10**27 * 256


def test_later_rules_win_and_globs_select(linear):
    rules = policy(
        {"format": "fixed16"},
        {"format": "fixed8", "role": ("weight",)},
        {"format": "fixed4", "name": "*.second.weight"},
        {"format": "fixed2", "layer": "nowhere.*", "optional": True},
    )
    formats = formats_of(linear, rules)
    assert formats["layer.first.weight"] == parse_format("fixed8")
    assert formats["layer.second.weight"] == parse_format("fixed4")
    assert formats["layer.x"] == parse_format("fixed16")


def test_globs_over_ops_select_what_they_write_and_read(linear):
    rules = policy(
        {"format": "fixed16"},
        {"format": "fixed8", "op": "*.first"},
        {"copy": "operand", "op": "*.second", "operand": ("x",), "format": "fixed4"},
    )
    assert {n for n, f in formats_of(linear, rules).items() if f.name == "fixed8"} == {"layer.first"}
    assert list(copies_of(linear, rules)) == [("layer.second", 0)]


def test_per_tensor_fp8_keeps_one_copy_of_x_and_one_of_w(model):
    """Flat formats need no second orientation: forward, dgrad and wgrad read the same bits, each written once."""
    copies = copies_of(model, shipped_policy("fp8-tensor"))
    name = "encoder.0.ffn.fc1"
    assert copies[name, 0][0] == copies[f"{name}.dw", 0][0]
    assert copies[name, 1][0] == copies[f"{name}.dx", 1][0]
    assert copies[f"{name}.dx", 0][0] == copies[f"{name}.dw", 1][0]
    assert ("encoder.0.self_attention.scores", 0) not in copies  # attention stays in bf16


def test_blocks_need_a_second_orientation_for_the_other_gemm(model):
    copies = copies_of(model, shipped_policy("mxfp8"))
    name = "encoder.0.ffn.fc1"
    assert copies[name, 0][0].axes == (2,)
    assert copies[f"{name}.dw", 0][0].axes == (0, 1)
    assert copies[name, 1][0].axes == (0,)
    assert copies[f"{name}.dx", 1][0].axes == (1,)


def test_state_and_gradients_of_fixed16_are_16_bits_wide(model):
    formats = formats_of(model, shipped_policy("fixed16"))
    floats = {formats[t.name].name for t in model.tensors.values() if t.values == "float"}
    assert floats == {"fixed16"}


def test_dense_embedding_gradients_write_the_whole_table_and_lookups_read_their_rows(step):
    graph = step()
    found = moves(counted(graph, shipped_policy("fixed16")))
    lookup = next(op for op in graph.ops if op.kind.name == "embed" and graph.tensors[op.inputs[0]].role == "weight")
    table = lookup.inputs[0]
    rows = graph.elements(graph.tensors[lookup.inputs[1]].dims)
    assert found[lookup.name][table] == (rows * graph.shape(table)[1] * 16, 0)
    scatter = next(op for op in graph.ops if op.name == f"{lookup.name}.dtable")
    assert found[scatter.name][scatter.outputs[0]] == (0, graph.elements(graph.tensors[table].dims) * 16)


@pytest.mark.parametrize(("model", "name"), pairs(), indirect=["model"])
@pytest.mark.parametrize("traffic", COMPARED)  # eager has temporaries, which are no tensors of the graph
def test_nothing_is_read_that_was_not_written(model, name, traffic):
    """Walk the rows as a machine would: what is read from DRAM is given from outside, or some op wrote it before."""
    rows = each_op(counted(model, shipped_policy(name), traffic))
    given = {n for n in model.tensors if n not in model.producer} | set(model.viewed)
    updated = {m.tensor(op) for op, row in rows if row.phase == "update" for m in row.moves if m.written_bits}
    there = given | updated  # the last step's update left weights, states and copies of weights
    for op, row in rows:
        for move in row.moves:
            moved = move.tensor(op)
            assert moved in there or not move.read_bits, (row.name(op), moved)
            assert not (move.written_bits and moved in there - updated), (row.name(op), moved)
        there |= {move.tensor(op) for move in row.moves if move.written_bits}


@pytest.mark.parametrize(("model", "name"), pairs(), indirect=["model"])
def test_nothing_is_written_that_nobody_reads(model, name):
    """Only results of the step (loss, weights, states) may be written without a reader."""
    rows = each_op(counted(model, shipped_policy(name)))
    read = {move.tensor(op) for op, row in rows for move in row.moves if move.read_bits}
    written = {(row.phase, move.tensor(op)) for op, row in rows for move in row.moves if move.written_bits}
    read |= {name for op in model.ops if op.kind.view for name in op.inputs}
    unread = {tensor for phase, tensor in written if tensor not in read and phase != "update"}
    assert unread <= {model.loss} | {n for n in model.tensors if model.tensors[n].alias}


def tell_apart(policy, graph):
    """The same policy with a number for each tensor, of which no rule takes notice: no two ops are alike."""
    rows = {name: (i,) for i, name in enumerate(graph.tensors)}
    return replace(policy, widths=Widths("numbers", "tensor", ("unused",), rows, {}))


@pytest.mark.parametrize(("step", "name"), pairs([*POLICIES, "w8a8+as-coded"]), indirect=["step"])
def test_counting_what_is_alike_once_is_counting_every_op(step, name):
    """Two ways to the same rows: by classes of ops, and each op by itself."""
    graph = step(dropout=0.1, micro_batches=2, optimizer=adamw(clip_norm=1.0))
    rules = shipped_policy(name)
    for traffic in UNTILED:
        rows = counted(graph, rules, traffic)
        alone = counted(graph, tell_apart(rules, graph), traffic)
        assert len(rows) < len(alone)
        assert all(len(row.ops) == 1 for row in alone)
        assert of_each_op(rows) == of_each_op(alone)
