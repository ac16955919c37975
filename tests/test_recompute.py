"""What is made again for the backward: the same numbers, less kept, more computed."""

import numpy as np
import pytest
from conftest import STEPS, adamw, in_turn, miscounts, shipped_policy

import costsim
from costsim.cost.count import count
from costsim.cost.totals import Total, group, sum_rows
from costsim.graph.autodiff import stash
from costsim.graph.fusion import UNTILED
from costsim.plots.roofline import KINDS, roofline
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.results import records
from costsim.results.roof import roof

WAYS = {
    "flash": {"attention": "flash"},
    "selective": {"checkpointing": "selective"},
    "full": {"checkpointing": "full"},
    "full and flash": {"checkpointing": "full", "attention": "flash"},
}
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.1}


def made(family, **changes):
    return STEPS[family](micro_batches=2, optimizer=adamw(clip_norm=1.0), **DROPOUT, **changes)


def macs(graph, *phases):
    return sum(graph.work(op)[0] for op in graph.ops if op.phase in phases)


@pytest.mark.parametrize("family", sorted(STEPS))
@pytest.mark.parametrize("way", sorted(WAYS))
def test_losses_and_gradients_are_those_of_keeping_everything(family, way):
    plain, recomputing = made(family), made(family, **WAYS[way])
    rng = np.random.default_rng(0)
    weights, batches = draw_weights(plain, rng), [draw_batch(plain, rng) for _ in range(2)]
    expected, recomputed = (run(graph, weights, batches) for graph in (plain, recomputing))
    np.testing.assert_allclose(recomputed.losses, expected.losses, rtol=1e-13)
    for weight in weights:
        name = gradient_of(plain, weight)
        np.testing.assert_allclose(recomputed.values[name], expected.values[name], rtol=1e-9, atol=1e-12)
    for name, op in recomputing.producer.items():
        if op.phase == "recompute" and way != "flash":
            if recomputing.tensors[name].recomputes.endswith(".lse"):
                continue
            original = expected.values[recomputing.tensors[name].recomputes]
            np.testing.assert_allclose(recomputed.values[name], original, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", sorted(STEPS))
@pytest.mark.parametrize("way", sorted(WAYS))
def test_less_is_kept_and_only_that_is_computed_more(family, way):
    plain, recomputing = made(family), made(family, **WAYS[way])
    kept, before = stash(recomputing), stash(plain)
    flash = {name for name in kept if name.endswith(".softmax.lse")}
    data = {"embedding.keep", "embedding.source_keep", "embedding.target_keep"}  # masks that make scores again
    assert set(kept) - flash - data < set(before)
    assert macs(recomputing, "forward") == macs(plain, "forward")
    assert macs(recomputing, "backward") == macs(plain, "backward") == 2 * macs(plain, "forward")
    assert 0 < macs(recomputing, "recompute") <= 2 * macs(plain, "forward")
    names = [name.rpartition(".self_attention.")[2] for name in kept if ".self_attention." in name]
    if way == "full":
        assert not names
    if way in ("flash", "selective"):
        assert not {"scores", "softmax", "dropout", "dropout.mask"} & set(names)


@pytest.mark.parametrize("family", sorted(STEPS))
def test_one_product_of_attention_is_computed_again(family):
    for way in ("flash", "selective"):
        graph = made(family, **WAYS[way])
        repeated = [op.recomputes for op in graph.ops if op.phase == "recompute" and op.gemm]
        forward = [op.name for op in graph.ops if op.phase == "forward" and op.name.endswith("scores")]
        assert sorted(repeated) == sorted(forward)


@pytest.mark.parametrize("family", sorted(STEPS))
@pytest.mark.parametrize("traffic", UNTILED)
def test_no_scores_of_flash_attention_cross_dram(family, traffic):
    graph = made(family, attention="flash")
    for row in count(graph, assign(graph, shipped_policy("fp32")), traffic):
        for op in row.ops:
            for move in row.moves:
                name = move.tensor(op)
                assert not any(part in name for part in (".scores", "attention.softmax", "attention.dropout")) or (
                    name.endswith(("softmax.lse", "scale.grad"))
                ), name


@pytest.mark.parametrize(
    ("step", "way", "name"),
    in_turn(
        [(family, way) for family in sorted(STEPS) for way in sorted(WAYS)],
        ["fp32", "dsq", "fp8-block", "bf16-mixed", "w8a8+as-coded", "mxfp8", "nvfp4"],
    ),
    indirect=["step"],
)
def test_counts_are_what_is_measured(step, way, name):
    graph = step(micro_batches=2, optimizer=adamw(clip_norm=1.0), **DROPOUT, **WAYS[way])
    assert miscounts(graph, shipped_policy(name)) == []


# --- products that are made again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_row_forward_is_the_model_as_it_is_and_recomputation_has_a_row(way):
    """Model FLOPs are 2 MACs of forward, dgrad and wgrad, whatever is made again (Chowdhery et al. 2022, app. B)."""
    plain, recomputing = made("decoder"), made("decoder", **WAYS[way])
    parts = group([(1, count(recomputing, assign(recomputing, shipped_policy("bf16-mixed"))))], "gemm", "product")
    assert parts["forward"].macs == parts["dgrad"].macs == parts["wgrad"].macs == macs(plain, "forward")
    assert parts["recompute"].macs == macs(recomputing, "recompute") > 0
    rows = count(recomputing, assign(recomputing, shipped_policy("bf16-mixed")))
    assert sum(parts.values(), Total()) == sum_rows(rows, "product")


def test_recomputation_has_a_row_wherever_products_are_told_apart():
    again = costsim.load("gpt2-small", {"model.layers": 2, "model.checkpointing": "full"})
    result = again.run(["bf16-mixed"], hardware=["h100-sxm"], traffic="unfused")
    run = result.runs[0]
    ours = {row["gemm"]: int(row["macs"]) for row in records.records(run, "gemm")}
    assert set(ours) == {"no GEMM", "forward", "recompute", "dgrad", "wgrad"}
    table = result.by("gemm").set_index("gemm")["macs"]
    assert {name: table[name] for name in ours if name != "no GEMM"} == {n: ours[n] for n in ours if n != "no GEMM"}
    drawn = {point.kind for point in roof(run, run.policies[0], run.job.hardware[0]).points}
    assert {"forward", "recompute", "dgrad", "wgrad"} <= drawn <= set(KINDS)
    [figure] = [roofline(run)]
    assert [text.get_text() for text in figure.legends[0].get_texts()].count("recompute") == 1
