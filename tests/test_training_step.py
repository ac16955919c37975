"""Whole training steps: gradients against finite differences, the update against formulas written apart, structure."""

from pathlib import Path

import numpy as np
import pytest
from conftest import adamw, classifier_step, translation_step

from costsim import models
from costsim.graph.autodiff import backward, stash
from costsim.graph.builder import GraphBuilder
from costsim.models import decoder
from costsim.models.families import families, is_family
from costsim.reference.execute import run
from costsim.reference.numpy_ops import run_op

INDEX_BOUNDS = {"source_ids": 11, "target_ids": 13, "tokens.ids": 11, "types.ids": 1}


def draw_weights(graph, seed=0):
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.normal(0, 0.5, graph.shape(t.name))
        for t in graph.tensors.values()
        if t.role == "weight" and t.alias is None
    }


def draw_batch(graph, seed=0):
    """Data for one micro-batch: ids, positions, masks whose first key is kept, labels with some to ignore."""
    rng = np.random.default_rng(seed)
    batch = {}
    for t in graph.tensors.values():
        if t.role != "data" or t.name in graph.producer:
            continue
        shape, last = graph.shape(t.name), t.name.split(".", 1)[1]
        if t.values == "mask":
            batch[t.name] = rng.random(shape) < 0.7
            batch[t.name][:, 0] = True
        elif last.endswith(("_positions", "positions.ids")):
            batch[t.name] = np.broadcast_to(np.arange(shape[-1]), shape)
        elif t.name == "head.labels":
            batch[t.name] = rng.integers(-1, 3, shape)
            batch[t.name].flat[0] = 1
        elif t.values == "index":
            batch[t.name] = rng.integers(0, INDEX_BOUNDS[last], shape)
        else:
            batch[t.name] = rng.normal(size=shape)
    return batch


def loss_of(graph, weights, batches):
    """The mean over micro-batches; each graph's loss is its share of it."""
    total = 0.0
    for micro, batch in enumerate(batches):
        values = dict(weights) | batch
        for op in graph.ops:
            if op.phase == "forward":
                results, _ = run_op(graph, op, [values[n] for n in op.inputs], seed=5, step=1, micro=micro)
                values.update(zip(op.outputs, results, strict=True))
        total += float(values["head.cross_entropy"])
    return total


VARIANTS = [
    {},
    {"norm": "pre", "activation": "gelu"},
    {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1, "label_smoothing": 0.2},
    {"micro_batches": 3},
    {"batch": {"padding_mask": False}},
]
TRANSLATION = [
    {"tied": "none", "final_norm": True, "norm": "pre"},
    {"tied": "all", "source_vocab": 13, "target_vocab": 13},
    {"positions": "learned", "scale_embedding": False},
]
CLASSIFIER = [{"token_types": 0, "head_dropout": 0.4}]
CASES = [(translation_step, v) for v in VARIANTS + TRANSLATION] + [(classifier_step, v) for v in VARIANTS + CLASSIFIER]


def gradient_names(graph):
    """Weight -> its gradient, as the optimizer reads it."""
    return {op.inputs[0]: op.inputs[1] for op in graph.ops if op.kind.name in ("adam", "adamw")}


@pytest.mark.parametrize(("make", "changes"), CASES)
def test_gradients_of_whole_models_equal_finite_differences(make, changes):
    graph = make(**changes)
    weights = draw_weights(graph)
    batches = [draw_batch(graph, seed) for seed in range(graph.micro_batches)]
    values = run(graph, weights, batches, seed=5).values
    grads = gradient_names(graph)
    assert set(grads) == set(weights)  # every weight is trained
    rng = np.random.default_rng(1)
    h = 1e-6
    for name in weights:
        direction = rng.normal(size=weights[name].shape)
        plus = loss_of(graph, weights | {name: weights[name] + h * direction}, batches)
        minus = loss_of(graph, weights | {name: weights[name] - h * direction}, batches)
        measured = (plus - minus) / (2 * h)
        assert np.sum(values[grads[name]] * direction) == pytest.approx(measured, rel=1e-6, abs=1e-8), name


def adam_by_hand(w, g, m, v, step, decoupled, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.1):
    """Textbook Adam, bias-corrected moments spelled out. Kingma & Ba, algorithm 1; Loshchilov & Hutter, algorithm 2."""
    if not decoupled:
        g = g + decay * w
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    update = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    if decoupled:
        update = update + decay * w
    return w - lr * update, m, v


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_the_update_equals_textbook_adam(step, kind, clip_norm):
    graph = step(optimizer=adamw(kind=kind, clip_norm=clip_norm))
    weights = draw_weights(graph)
    states = {f"{name}.{s}": np.full(w.shape, 0.01) for name, w in weights.items() for s in ("m", "v")}
    values = run(graph, weights | states, [draw_batch(graph)], seed=5, step=4).values
    grads = {name: values[f"{name}.grad"] for name in weights}
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    factor = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
    assert clip_norm is None or norm > clip_norm
    for name, w in weights.items():
        m, v = states[f"{name}.m"], states[f"{name}.v"]
        expected = adam_by_hand(w, factor * grads[name], m, v, 4, decoupled=kind == "adamw")
        for ours, theirs in zip(("", ".m", ".v"), expected, strict=True):
            np.testing.assert_allclose(values[f"{name}{ours}.next"], theirs, rtol=1e-12, atol=1e-14)


def test_micro_batches_of_the_same_data_give_the_gradient_of_one(step):
    one, four = step(micro_batches=1), step(micro_batches=4)
    weights, batch = draw_weights(one), draw_batch(one)
    a = run(one, weights, [batch]).values
    b = run(four, weights, [batch] * 4).values
    for name in weights:
        np.testing.assert_allclose(b[f"{name}.next"], a[f"{name}.next"], rtol=1e-9, atol=1e-12)


def test_a_wrong_number_of_micro_batches_is_refused(step):
    graph = step(micro_batches=2)
    with pytest.raises(ValueError, match="takes 2 micro-batches, got 1"):
        run(graph, draw_weights(graph), [draw_batch(graph)])


def test_dropout_masks_depend_on_seed_step_pass_and_name_only(step):
    graph = step(dropout=0.5)
    weights, batch = draw_weights(graph), draw_batch(graph)
    masks = [op.outputs[0] for op in graph.ops if op.kind.name == "bernoulli"]
    first = run(graph, weights, [batch], seed=1).values
    again = run(graph, {n: w + 1 for n, w in weights.items()}, [batch], seed=1).values
    other = run(graph, weights, [batch], seed=2).values
    assert all((first[m] == again[m]).all() for m in masks)
    assert any((first[m] != other[m]).any() for m in masks)
    assert 0.2 < np.mean([first[m].mean() for m in masks]) < 0.8


def test_accumulation_adds_one_time_less_than_it_runs(step):
    graph = step(micro_batches=8)
    adds = [op for op in graph.ops if op.name.endswith(".accumulate")]
    assert len(adds) == len(gradient_names(graph))
    assert {op.times for op in adds} == {7}
    assert {op.times for op in graph.ops if op.phase == "update"} == {1}
    assert {op.times for op in graph.ops if op.phase == "forward"} == {8}
    assert not [op for op in step().ops if op.name.endswith(".accumulate")]


def test_tied_weights_are_one_parameter_with_two_gradients():
    tied, untied = translation_step(tied="decoder"), translation_step(tied="none")
    assert untied.parameters - tied.parameters == 13 * 8
    assert "embedding.target.weight.grad.add1" in {op.name for op in tied.ops}


def test_every_tensor_is_written_once_and_read_after(step):
    graph = step(dropout=0.1, micro_batches=2, optimizer=adamw(clip_norm=1.0))
    written = set()
    for op in graph.ops:
        assert all(name in written or name not in graph.producer for name in op.inputs), op.name
        assert written.isdisjoint(op.outputs)
        written.update(op.outputs)
        assert "." in op.name
    assert len({op.name for op in graph.ops}) == len(graph.ops)
    assert set(graph.tensors) == written | {n for n in graph.tensors if n not in graph.producer}


def test_the_stash_is_what_the_backward_reads(step):
    graph = step(norm="post")
    kept = stash(graph)
    layer = "decoder.0" if "decoder.0.self_attention.q" in graph.tensors else "encoder.0"
    assert f"{layer}.self_attention.softmax" in kept
    assert f"{layer}.self_attention.scores" not in kept  # softmax keeps its result, not its input
    assert f"{layer}.self_attention_residual" in kept  # the input of the post norm
    assert f"{layer}.self_attention.out" not in kept
    assert all(graph.tensors[name].role in ("activation", "data") for name in kept)


def test_a_gradient_without_a_rule_is_refused():
    b = GraphBuilder({"a": 2, "b": 3})
    x = b.given("x", ("a", "b"), role="weight")
    b.layer_norm(x, "norm")
    statistics = b.op("add", "norm.mean", "norm.rstd", name="statistics")  # nothing says how these are differentiated
    with pytest.raises(ValueError, match=r"norm: layer_norm has no rule for the gradient d(mean|rstd)"):
        backward(b, statistics, lambda weight, gradient: None)


def test_frozen_inputs_get_no_gradient():
    """Data needs none: the sinusoidal table is data, so no op makes its gradient."""
    graph = translation_step()
    assert not [op for op in graph.ops if op.name == "embedding.source_position.dtable"]
    learned = translation_step(positions="learned")
    assert [op for op in learned.ops if op.name == "embedding.source_position.dtable"]


def test_a_new_file_is_a_new_family_and_what_families_share_is_none(tmp_path, monkeypatch):
    (tmp_path / "new_decoder.py").write_text(Path(decoder.__file__).read_text())
    (tmp_path / "new_parts.py").write_text("def forward(): ...")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert {"decoder", "encoder-classifier", "encoder-decoder", "new-decoder"} < set(families())
    assert is_family("new-decoder")
    assert not is_family("new-parts")
    assert not is_family("training-step")
    assert not is_family("encoder_decoder")  # the file's name
