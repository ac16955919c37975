"""Copies of what ops read that are no GEMMs: a rule asks for them by the op's name, and by that alone."""

import pytest
from conftest import STEPS, copies_of, counted, decoder_step, miscounts, moves, policy, shipped_policy
from test_explain import all_differences

from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.inputs.schema_workload import Optimizer
from costsim.models import decoder
from costsim.models.training_step import training_step
from costsim.policy.assign import assign

RAW = {"format": "bf16"}
TO_FP32 = {"copy": "operand", "op": "head.cross_entropy", "format": "fp32", "placement": "stored"}
PLACEMENTS = ("stored", "on_chip", "at_producer", "transient")


def test_the_logits_of_a_loss_are_cast_by_a_pass_of_its_own():
    graph = decoder_step()
    elements = graph.elements(graph.tensors["head.logits"].dims)
    moved = moves(counted(graph, policy(RAW, TO_FP32)))
    copy = "head.logits@operand.fp32.stored"
    assert moved[f"{copy}.cast"] == {"head.logits": (16 * elements, 0), copy: (0, 32 * elements)}
    assert moved["head.cross_entropy"][copy] == (32 * elements, 0)
    assert "head.logits" not in moved["head.cross_entropy"]
    assert list(copies_of(graph, policy(RAW, TO_FP32))) == [("head.cross_entropy", 0)]  # labels are no numbers


def test_logits_of_a_vocabulary_of_248k():
    """11,600 x 248,320: bf16 logits, their fp32 copy and the fp32 log-probabilities that the loss keeps."""
    model = decoder.Model(family="decoder", layers=1, d_model=16, ffn_dim=16, heads=2, vocab=248320,
                          max_positions=11600, tied=False, attention="flash")  # fmt: skip
    graph = training_step(model, decoder.Batch(sequences=1, tokens=11600), Optimizer(kind="adamw", lr=1e-3))
    rules = shipped_policy("bf16-autocast").file.rules
    logits = 11_600 * 248_320
    for more, bytes_ in (([], 2 + 4), ([TO_FP32], 2 + 4 + 4)):
        cast = policy(*[rule.as_data() for rule in rules], *more)
        assert memory(graph, assign(graph, cast), "fused").components["logits"] == bytes_ * logits
    assert 10 * logits == 28_805_120_000


@pytest.mark.parametrize("op", ["*.cross_entropy*", "*norm"])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", STEPS)
def test_counted_derived_and_measured_alike(family, placement, op):
    graph = STEPS[family](micro_batches=2, dropout=0.1)
    rules = policy(RAW, {**TO_FP32, "op": op, "placement": placement})
    assert all_differences(graph, rules) == []
    assert miscounts(graph, rules) == []


@pytest.mark.parametrize("op", ["*", "head.*", "decoder.0.*", "*.dw"])
def test_a_glob_that_matches_a_gemm_selects_gemms_alone(op):
    graph = decoder_step()
    chains = copies_of(graph, policy(RAW, {"copy": "operand", "op": op, "format": "fp32"}))
    gemms = {op.name for op in graph.ops if op.gemm}
    assert chains
    assert {name for name, _ in chains} <= gemms


def test_without_a_name_rules_are_about_gemms():
    graph = decoder_step()
    everything = policy(RAW, {"copy": "operand", "format": "fp32"}, {**TO_FP32, "op": "head.logits"})
    assert ("head.cross_entropy", 0) not in copies_of(graph, everything)
    placed = policy(RAW, TO_FP32, {"copy": "operand", "placement": "on_chip", "optional": True})
    assert [copy.placement for (copy,) in copies_of(graph, placed).values()] == ["stored"]


@pytest.mark.parametrize("more", [{"gemm": ("forward",)}, {"operand": ("x",)}, {"not_op": ("head.*",)}])
def test_what_other_fields_leave_out_is_left_out(more):
    with pytest.raises(InputError, match="this rule matches nothing"):
        assign(decoder_step(), policy(RAW, {**TO_FP32, **more}))


@pytest.mark.parametrize("op", ["*.adamw", "*.accumulate", "embedding.tokens"])
def test_ops_that_write_in_place_or_look_rows_up_read_no_copies(op):
    with pytest.raises(InputError, match="this rule matches nothing"):
        assign(decoder_step(micro_batches=2), policy(RAW, {**TO_FP32, "op": op}))
