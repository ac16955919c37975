"""Logits and loss in chunks of rows: the same numbers and products, logits that are never whole."""

import numpy as np
import pytest
from conftest import (
    STEPS,
    adamw,
    miscounts,
    shipped_policy,
)

from costsim.cost.count import count
from costsim.explain.derive import Deriver, differences
from costsim.graph.fusion import UNTILED
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run

BACKWARDS = ("in_place", "at_once", "recompute")
MASKED_LM = {"task_head": "masked-lm", "classes": None}
MAKERS = {
    "decoder, tied": {},
    "decoder, not tied": {"tied": False},
    "decoder, no final norm": {"final_norm": False},
    "gemma": {},
    "llama": {},
    "experts": {},
    "encoder-decoder": {"logits_bias": True},
    "encoder-classifier": MASKED_LM,
}


def made(name, **changes):
    return STEPS[name.partition(",")[0]](**{**MAKERS[name], **changes})


def chunked(name, chunks, backward="in_place", **changes):
    return made(name, head={"chunks": chunks, "backward": backward}, **changes)


def drawn(graph, number=1, seed=0):
    """Weights and batches; some labels do not count."""
    rng = np.random.default_rng(seed)
    weights = draw_weights(graph, rng)
    batches = [draw_batch(graph, rng) for _ in range(number)]
    for batch in batches:
        batch["head.labels"].reshape(-1)[[0, 3]] = -1
    return weights, batches


def head_gemms(graph):
    return [op for op in graph.ops if op.gemm and op.layer == "head" and op.name.startswith("head.logits")]


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_loss_and_gradients_are_those_of_whole_logits(name, backward):
    changes = {"micro_batches": 2, "label_smoothing": 0.1, "dropout": 0.1, "optimizer": adamw(clip_norm=1.0)}
    whole, parts = made(name, **changes), chunked(name, 4, backward, **changes)
    weights, batches = drawn(whole, 2)
    expected, ran = run(whole, weights, batches), run(parts, weights, batches)
    np.testing.assert_allclose(ran.losses, expected.losses, rtol=1e-13)
    for weight in weights:
        np.testing.assert_allclose(
            ran.values[gradient_of(parts, weight)], expected.values[gradient_of(whole, weight)], rtol=1e-9, atol=1e-13
        )
        np.testing.assert_allclose(ran.weights(parts)[weight], expected.weights(whole)[weight], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_counts_are_measured_under_every_kind_of_traffic(name, backward):
    graph = chunked(name, 4, backward, micro_batches=2, dropout=0.1)
    for rules in ("bf16-mixed", "dsq", "fp8-block", "w8a8+as-coded", "stash-bfp"):
        assert miscounts(graph, shipped_policy(rules)) == []


@pytest.mark.parametrize("traffic", sorted(UNTILED))
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("rules", ["bf16-autocast", "dsq", "mxfp8"])
def test_explanations_arrive_at_the_counts(rules, backward, traffic):
    graph = chunked("decoder, tied", 4, backward)
    assignment = assign(graph, shipped_policy(rules), 0)
    deriver = Deriver(graph, assignment, traffic, "product")
    rows = count(graph, assignment, traffic)
    derived = 0
    for row in rows:
        for op in row.ops:
            every = [deriver.op(op)] if row.cast is None else [c for c in deriver.casts(op) if c.name == row.name(op)]
            assert [line for one in every for line in differences(one, row)] == []
            derived += len(every)
    assert derived == sum(len(row.ops) for row in rows)


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_op_reads_what_is_made_before_it(name, backward):
    graph = chunked(name, 4, backward, micro_batches=2)
    given = set(graph.tensors) - set(graph.producer)
    for position, op in enumerate(graph.ops):
        assert op.position == position
        assert given.issuperset(op.inputs), op.name
        given.update(op.outputs)
