"""Logits and loss in chunks of rows: the same numbers and products, logits that are never whole."""

from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import (
    STEPS,
    adamw,
    classifier_step,
    counted,
    decoder_step,
    in_turn,
    miscounts,
    moves,
    policy,
    shipped_policy,
)
from test_memory import measured_peak

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.memory import memory, of_policy
from costsim.cost.tiling import tile_rows
from costsim.errors import InputError
from costsim.explain.derive import Deriver, differences
from costsim.graph.autodiff import backward
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import UNTILED
from costsim.inputs import files
from costsim.models import decoder
from costsim.models.head import chunk_sizes
from costsim.models.training_step import training_step
from costsim.plots.timeline import regions
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.validate import validate
from costsim.run.job import Request, prepare

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
ROWS, VOCAB, WIDTH = 15, 11, 8  # of the small decoders


def made(name, **changes):
    return STEPS[name.partition(",")[0]](**{**MAKERS[name], **changes})


def chunked(name, chunks, backward="in_place", **changes):
    return made(name, head={"chunks": chunks, "backward": backward}, **changes)


def drawn(graph, number=1):
    """Weights and batches; some labels do not count."""
    rng = np.random.default_rng(0)
    weights = draw_weights(graph, rng)
    batches = [draw_batch(graph, rng) for _ in range(number)]
    for batch in batches:
        batch["head.labels"].reshape(-1)[[0, 3]] = -1
    return weights, batches


def assert_same_numbers(whole, parts, micro_batches=1):
    """Losses, gradients of every weight, and weights after the update."""
    weights, batches = drawn(whole, micro_batches)
    expected, ran = run(whole, weights, batches), run(parts, weights, batches)
    np.testing.assert_allclose(ran.losses, expected.losses, rtol=1e-13)
    for weight in (tensor.name for tensor in whole.weights if tensor.trainable):
        mine, other = ran.values[gradient_of(parts, weight)], expected.values[gradient_of(whole, weight)]
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(ran.weights(parts)[weight], expected.weights(whole)[weight], rtol=1e-9, atol=1e-12)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_loss_and_gradients_are_those_of_whole_logits(name, backward):
    changes = {"micro_batches": 2, "label_smoothing": 0.1, "dropout": 0.1, "optimizer": adamw(clip_norm=1.0, eps=1e-3)}
    assert_same_numbers(made(name, **changes), chunked(name, 4, backward, **changes), 2)


WAYS = {
    "checkpointed": {"checkpointing": "full"},
    "flash": {"attention": "flash"},
    "frozen head": {"trainable": ("decoder.*", "embedding.*")},
    "head alone": {"trainable": ("head.*",)},
    "adapters": {"lora": {"rank": 2, "targets": ("*.q", "*.v")}, "trainable": ("*lora*",)},
}


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("way", sorted(WAYS))
def test_with_all_that_a_model_may_have(way, backward):
    changes = {"tied": False, "dropout": 0.1, "optimizer": adamw(eps=1e-3), **WAYS[way]}
    graph = decoder_step(head={"chunks": 7, "backward": backward}, **changes)
    assert_same_numbers(decoder_step(**changes), graph)
    assert miscounts(graph, shipped_policy("bf16-mixed")) == []
    trained = way in ("checkpointed", "flash", "head alone")
    assert any(op.gemm == "wgrad" and op.layer == "head" for op in graph.ops) is trained


def test_one_chunk_is_no_chunks():
    plain, one = decoder_step(), decoder_step(head={"chunks": 1})
    assert [(op.name, op.inputs, op.outputs) for op in plain.ops] == [
        (op.name, op.inputs, op.outputs) for op in one.ops
    ]


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_op_reads_what_is_made_before_it(name, backward):
    graph = chunked(name, 4, backward, micro_batches=2)
    given = set(graph.tensors) - set(graph.producer)
    for position, op in enumerate(graph.ops):
        assert op.position == position
        assert given.issuperset(op.inputs), op.name
        given.update(op.outputs)


def test_a_gradient_in_place_is_of_the_loss_itself():
    """The kernel that leaves it does not know what the loss is multiplied by later."""
    b = GraphBuilder({"rows": 3, "vocab": 5})
    weight = b.given("logits", ("rows", "vocab"), role="weight")
    labels = b.given("labels", ("rows",), values="index")
    counted = b.op("count_labels", labels, name="counted", ignore=-1)
    params = {"smoothing": 0.0, "ignore": -1, "share": 1.0}
    part = b.op("cross_entropy_in_place", weight, labels, counted, name="loss", **params)
    with pytest.raises(ValueError, match="wants the gradient dloss to be 1"):
        backward(b, b.op("scale", part, name="twice", factor=2.0), lambda *_: None)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backward", "rules"),
    in_turn(
        [(name, backward) for name in sorted(MAKERS) for backward in BACKWARDS],
        ["bf16-mixed", "dsq", "fp8-block", "w8a8+as-coded", "stash-bfp"],
    ),
)
def test_counts_are_measured_under_every_kind_of_traffic(name, backward, rules):
    graph = chunked(name, 4, backward, micro_batches=2, dropout=0.1)
    assert miscounts(graph, shipped_policy(rules)) == []


EVERY_WAY_TO_COPY = [
    {"copy": copy, "operand": (operand,), "op": "head.logits*", "format": "bfp4", "placement": placement}
    for copy, operand, placement in [
        ("operand", "x", "at_producer"),
        ("operand", "x", "stored"),
        ("operand", "dy", "at_producer"),
        ("operand", "dy", "transient"),
        ("operand", "w", "stored"),
        ("operand", "w", "on_chip"),
        ("stash", "x", "at_producer"),
    ]
]


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize(
    "rule", EVERY_WAY_TO_COPY, ids=lambda rule: "-".join((rule["copy"], *rule["operand"], rule["placement"]))
)
def test_copies_of_what_the_head_multiplies(rule, backward):
    graph = decoder_step(head={"chunks": 4, "backward": backward})
    assert miscounts(graph, policy({"format": "bf16"}, rule)) == []


@pytest.mark.parametrize("rules", ["int8-row", "int8", "nf4"])  # a scale a row, one for all, blocks of 64 in a row
def test_a_view_has_the_bits_of_the_whole(rules):
    graph = decoder_step(head={"chunks": 4})
    whole = policy({"format": "bf16"}, {"role": ("activation", "gradient"), "name": "decoder.final*", "format": rules})
    assert miscounts(graph, whole) == []
    assignment = assign(graph, whole)
    x, dx = "decoder.final.norm", "decoder.final.norm.grad"
    assert {assignment.format(name).name for name in (x, f"{x}.rows.0", f"{x}.rows.3", dx)} == {rules}


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


@pytest.mark.parametrize("scope", ["gemm", "step"])
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_macs_are_those_of_whole_logits(name, backward, scope):
    """But for logits that are made again: as many as the forward's."""
    macs = {}
    for chunks in (1, 4):
        rows = counted(chunked(name, chunks, backward), shipped_policy("fp32"), scope=scope)
        macs[chunks] = {
            gemm: sum(r.macs * len(r.ops) for r in rows if r.gemm_name == gemm)
            for gemm in ("forward", "dgrad", "wgrad", "recompute")
        }
    plain = made(name)
    head = next(op for op in plain.ops if op.name == "head.logits")
    again = plain.work(head)[0] if backward == "recompute" else 0
    assert macs[4] == macs[1] | {"recompute": again}


def sums(moved, ops, what):
    """Bits read and written at some ops, of what has certain names."""
    each = [bits for op in ops for name, bits in moved.get(op, {}).items() if what(name)]
    return sum(read for read, _ in each), sum(written for _, written in each)


@pytest.mark.parametrize("traffic", ["unfused", "fused", "tiled"])
@pytest.mark.parametrize(("backward", "passes"), [("in_place", 2), ("at_once", 2), ("recompute", 3)])
@pytest.mark.parametrize("chunks", [3, 4, 15])
def test_bits_of_the_head(chunks, backward, passes, traffic):
    """What crosses DRAM at its GEMMs, losses and sums, by sizes alone: fp32, 15 rows, 8 wide, 11 words.

    `passes`: the products with the head's weight, for each chunk.
    """
    graph = decoder_step(tied=False, head={"chunks": chunks, "backward": backward})
    rows = counted(graph, shipped_policy("fp32"), traffic)
    moved = moves(tile_rows(graph, rows, 10**9) if traffic == "tiled" else rows)
    hidden, logits, weight = (32 * size for size in (ROWS * WIDTH, ROWS * VOCAB, VOCAB * WIDTH))
    gemms = [op.name for op in graph.ops if op.gemm and op.layer == "head"]
    losses = [op.name for op in graph.ops if op.kind.name.startswith("cross_entropy")]
    add = [op.name for op in graph.ops if op.kind.name == "accumulate"]
    assert len(gemms) == (passes + 1) * chunks
    assert sums(moved, gemms, lambda name: name == "head.logits.weight") == (passes * chunks * weight, 0)
    x, dx = "decoder.final.norm", "decoder.final.norm.grad"
    assert moved["decoder.final.norm"][x] == (0, hidden)
    assert sums(moved, gemms, lambda name: name.startswith(x) and not name.endswith(".grad")) == (passes * hidden, 0)
    assert sums(moved, gemms, lambda name: name.startswith(x) and name.endswith(".grad")) == (0, hidden)
    assert moved["decoder.final.norm.dx"][dx] == (hidden, 0)
    large = {name for op in (*gemms, *losses) for name in moved[op] if graph.tensors[name].dims[-1:] == ("vocab",)}
    read, written = sums(moved, (*gemms, *losses), large.__contains__)
    # In place: logits, read by the loss, which writes their gradient, which two products read.
    # Else: logits, log-probabilities, gradient; if made again, the first two once more, one of which nobody reads.
    times = {"in_place": (3, 2), "at_once": (4, 3), "recompute": (5, 5)}[backward]
    assert (read, written) == tuple(n * logits for n in times)
    sum_reads = 2 if traffic == "unfused" else 1  # fused, what is added does not leave the chip
    assert sums(moved, add, lambda _: True) == (sum_reads * (chunks - 1) * weight, (chunks - 1) * weight)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traffic", sorted(UNTILED))
@pytest.mark.parametrize("chunks", [2, 3, 4, 7, 15])
def test_no_more_logits_are_there_than_those_of_a_chunk(chunks, traffic):
    """In place: ceil(rows / chunks) rows at any time; of the last chunk, which may be shorter, the rest."""
    graph = decoder_step(head={"chunks": chunks})
    stored = memory(graph, assign(graph, shipped_policy("bf16-mixed")), traffic).stored
    logits = sorted((place.first, place.last, place.size_bytes) for place in stored if place.component == "logits")
    assert [size // (2 * VOCAB) for _, _, size in logits] == list(chunk_sizes(ROWS, chunks))
    assert all(end < start for (_, end, _), (start, _, _) in pairwise(logits))
    assert not any(place.kept for place in stored if place.component == "logits")


@pytest.mark.parametrize("traffic", sorted(UNTILED))
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("rules", ["fp32", "bf16-autocast", "dsq", "mxfp8"])
def test_the_peak_is_what_the_reference_holds(rules, backward, traffic):
    graph = decoder_step(head={"chunks": 4, "backward": backward}, dropout=0.1)
    assignment = assign(graph, shipped_policy(rules))
    assert memory(graph, assignment, traffic).peak_bytes == measured_peak(graph, assignment, traffic)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_views_take_no_memory(backward):
    graph = decoder_step(head={"chunks": 4, "backward": backward})
    stored = memory(graph, assign(graph, shipped_policy("fp32")), "unfused").stored
    whole = {place.name: place for place in stored if place.size_bytes == 4 * ROWS * WIDTH and "final" in place.name}
    assert set(whole) == {"decoder.final.norm", "decoder.final.norm.grad"}
    assert not any(".rows." in place.name for place in stored)
    x, dx = whole["decoder.final.norm"], whole["decoder.final.norm.grad"]
    assert x.producer == "decoder.final.norm"
    last = "0" if backward == "recompute" else "3"
    assert x.consumer == f"head.logits.{last}.dw"
    assert dx.producer == ("head.logits.3.dx" if backward == "recompute" else "head.logits.0.dx")


def big(chunks, backward):
    """A layer with a vocabulary of 248,320 on 11,600 tokens; in flash attention and fused traffic."""
    model = decoder.Model(
        family="decoder", d_model=2048, ffn_dim=6144, heads=16, layers=1, vocab=248320, max_positions=32768,
        norm_kind="rms", positions="rotary", tied=False, qkv_bias=False, out_bias=False, ffn_bias=False,
        activation="silu", gated=True, attention="flash", head={"chunks": chunks, "backward": backward},
    )  # fmt: skip
    return training_step(model, decoder.Batch(sequences=1, tokens=11600), adamw())


@pytest.mark.parametrize(
    ("rules", "chunks", "backward", "bytes_each"),
    [  # bytes of an element: logits; with what else is as large at the loss
        ("bf16-mixed", 1, "in_place", 2 + 2),  # logits, log-probabilities
        ("bf16-autocast", 1, "in_place", 2 + 4),
        ("fp32", 1, "in_place", 4 + 4),
        ("bf16-mixed", 8, "in_place", 2),  # logits, then their gradient
        ("bf16-mixed", 7, "in_place", 2),
        ("bf16-autocast", 8, "in_place", 2),
        ("fp32", 8, "in_place", 4),
        ("bf16-mixed", 8, "at_once", 2 + 2),
        ("bf16-autocast", 8, "at_once", 2 + 4),
        ("bf16-mixed", 8, "recompute", 2 + 2),
        ("fp32", 7, "recompute", 4 + 4),
    ],
)
def test_logits_of_a_large_vocabulary(rules, chunks, backward, bytes_each):
    _, held = of_policy(big(chunks, backward), shipped_policy(rules), "fused")
    rows = -(-11600 // chunks)
    assert held.components["logits"] == rows * 248320 * bytes_each


def test_the_peak_of_a_large_vocabulary():
    """17.7 GB in place of 26.4: for 11.5 of logits and log-probabilities 0.7, and 2.0 for the weight's gradient."""
    whole, parts = (of_policy(big(chunks, "in_place"), shipped_policy("bf16-mixed"), "fused")[1] for chunks in (1, 8))
    logits, gradient, hidden = 11600 * 248320 * 2, 248320 * 2048 * 4, 11600 * 2048 * 2
    small = 8 + 8 * 2 + 2  # how many rows count, and the losses
    saved = whole.peak_bytes - parts.peak_bytes
    assert abs(saved - (2 * logits - logits // 8 - gradient - hidden)) <= small


def test_forward_and_backward_do_not_overlap_in_the_timeline():
    graph = decoder_step(head={"chunks": 4})
    spans = regions(graph, "fused")
    assert list(spans) == ["forward", "backward", "update"]
    assert [end for _, end in spans.values()][:-1] == [first for first, _ in spans.values()][1:]


# --- what users write -------------------------------------------------------------------------------------------------


def test_chunks_are_as_torch_chunk_cuts_them():
    assert chunk_sizes(15, 4) == (4, 4, 4, 3)
    assert chunk_sizes(10, 6) == (2, 2, 2, 2, 2)
    assert all(sum(chunk_sizes(rows, chunks)) == rows for rows in range(1, 40) for chunks in range(1, rows + 1))


def test_more_chunks_than_rows_are_refused(tmp_path):
    text = files.list_shipped("workloads")["gpt2-small"].read_text(encoding="utf-8")
    at = text.replace("model:\n", "model:\n  head: {chunks: 99999999}\n", 1)
    path = tmp_path / "many.yaml"
    path.write_text(at, encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(path)])
    line = at.splitlines().index("  head: {chunks: 99999999}") + 1
    assert result.exit_code == 2
    assert f"many.yaml:{line}" in result.output
    assert "model.head.chunks" in result.output
    assert "99999999 chunks of" in result.output


def test_a_head_of_classes_has_no_chunks():
    with pytest.raises(InputError, match="masked-lm"):
        classifier_step(head={"chunks": 2})


@pytest.mark.parametrize("backward", BACKWARDS)
def test_a_shipped_workload_in_chunks(backward):
    changes = {"model.head": f"{{chunks: 8, backward: {backward}}}", "model.layers": 1, "batch.sequences": 1}
    assignments = [f"{name}={value}" for name, value in changes.items()]
    assert validate(prepare(Request("gpt2-small", ["bf16-mixed"], assignments=assignments))).passed
