"""Copies that live in DRAM for one kernel: passes before each reading kernel, and memory around it. By hand."""

import pytest
from conftest import STEPS, copies_of, counted, decoder_step, live_bytes, miscounts, moves, policy, shipped_policy
from test_copies import COPY, INT8, RAW, of_the_copy
from test_explain import all_differences

from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.graph.fusion import UNTILED, group_ops
from costsim.policy.assign import assign
from costsim.policy.load import load_policy

WEIGHTS = {"copy": "operand", "operand": ("w",), "role": ("weight",), "format": "fixed16"}
NARROW = ({"format": "fixed8"}, {**WEIGHTS, "placement": "transient"})


def test_a_pass_before_the_op(linear):
    cast = "layer.relu@operand.int8.transient.layer.second.cast"
    for scale_time, reads in (("delayed", 1), ("current", 2)):
        moved = of_the_copy(linear, {**COPY, "format": "int8", "placement": "transient", "scale_time": scale_time})
        assert moved == [
            ("layer.relu", RAW, "w"),
            (cast, reads * RAW, "r"),
            (cast, INT8, "w"),
            ("layer.second", INT8, "r"),
        ]


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_every_gemm_has_a_pass_in_every_run(micro_batches):
    """A weight of the feed-forward layer: forward and dgrad read it; a stored copy is made once for both."""
    graph = decoder_step(micro_batches=micro_batches)
    name = "decoder.0.ffn.fc1.weight"
    elements = graph.elements(graph.tensors[name].dims)
    readers = [op.name for op, i in graph.readers[name] if op.gemm]
    copy = f"{name}@operand.fixed16.transient"
    moved = moves(counted(graph, policy(*NARROW)))
    casts = {cast: both for cast, both in moved.items() if cast.startswith(name) and cast.endswith(".cast")}
    each = {name: (8 * elements * micro_batches, 0), copy: (0, 16 * elements * micro_batches)}
    assert len(readers) == 2
    assert casts == {f"{copy}.{op}.cast": each for op in readers}
    assert all(moved[op][copy] == (16 * elements * micro_batches, 0) for op in readers)
    stored = moves(counted(graph, policy(NARROW[0], {**WEIGHTS, "placement": "stored"})))
    assert stored[f"{name}@operand.fixed16.stored.cast"][name] == (8 * elements, 0)


@pytest.mark.parametrize("traffic", UNTILED)
def test_memory_is_that_of_copies_on_chip_and_the_copies_of_the_kernel_that_runs(traffic):
    graph = decoder_step(micro_batches=3)
    group = group_ops(graph, traffic)
    transient, on_chip = (
        memory(graph, assign(graph, policy(NARROW[0], {**WEIGHTS, "placement": placement})), traffic)
        for placement in ("transient", "on_chip")
    )
    there = [0] * len(live_bytes(on_chip))
    for op in graph.ops:
        for i, weight in enumerate(op.inputs):
            if op.gemm and i < 2 and graph.tensors[weight].role == "weight":
                there[group[op.position]] += 2 * graph.elements(graph.tensors[weight].dims)
    assert sum(there) > 0
    assert live_bytes(transient) == [bytes_ + more for bytes_, more in zip(live_bytes(on_chip), there, strict=True)]
    assert {p.component for p in transient.stored if p.copy} == {"temporaries"}
    assert "master_weights" not in {p.component for p in transient.stored}
    assert not any(place.kept for place in transient.stored if place.copy)


@pytest.mark.parametrize("rule", [
    {"copy": "operand", "format": "fixed4"},
    {"copy": "stash", "format": "int8"},
    {"copy": "operand", "operand": ("w",), "format": "nf4"},
])  # fmt: skip
@pytest.mark.parametrize("family", STEPS)
def test_counted_derived_and_measured_alike(family, rule):
    graph = STEPS[family](micro_batches=2)
    rules = policy({"format": "fixed16"}, {**rule, "placement": "transient"})
    assert any(copy.transient for chain in copies_of(graph, rules).values() for copy in chain)
    assert all_differences(graph, rules) == []
    assert miscounts(graph, rules) == []


def test_both_copies_of_a_read_are_transient():
    graph = decoder_step(attention="flash", checkpointing="full")
    both = policy(
        {"format": "fixed16"},
        {"copy": "stash", "format": "fixed8", "placement": "transient"},
        {"copy": "operand", "format": "fixed4", "placement": "transient"},
    )
    assert all_differences(graph, both) == []
    assert miscounts(graph, both) == []


@pytest.mark.parametrize("placement", ["stored", "at_producer"])
def test_nothing_lasting_is_made_from_a_transient_stash(placement, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"""\
description: x
rules:
  - {{format: fixed16}}
  - {{copy: stash, format: fixed8, placement: transient}}
  - {{copy: operand, format: fixed4, placement: {placement}}}
""")
    message = f"p.yaml:5:.*made {placement} from a stash that is transient; choose on_chip or transient"
    with pytest.raises(InputError, match=message):
        assign(decoder_step(), load_policy(path))


def test_a_head_in_nf4_that_is_bf16_for_one_gemm():
    """The head is read whole twice, by head.logits and its dgrad: there, and only there, its copy is in memory."""
    graph = decoder_step(tied=False, trainable=("*norm*",))
    rules = shipped_policy("qlora").file.rules
    head = {"role": ("weight",), "name": "head.logits.weight", "format": "nf4-double"}
    made = {"copy": "operand", "operand": ("w",), "role": ("weight",), "format": "bf16", "placement": "transient"}
    quantized = policy(*[rule.as_data() for rule in rules], head, made)
    stored = memory(graph, assign(graph, quantized), "unfused").stored
    copies = [place for place in stored if place.copy and place.tensor == "head.logits.weight"]
    size = 2 * graph.sizes["vocab"] * graph.sizes["model"]
    assert [(place.first == place.last, place.size_bytes) for place in copies] == [(True, size)] * 2
