"""Both families written once more, in plain NumPy with a loop per head and no graph: the losses must agree."""

import math

import numpy as np
import pytest
from conftest import classifier_step, translation_step
from test_training_step import draw_batch, draw_weights

from costsim.reference.execute import run


def norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(query, memory, w, name, keep, causal):
    q, k, v = (
        np.tensordot(x, w[f"{name}.{part}.weight"], 1) + w[f"{name}.{part}.bias"]
        for part, x in (("q", query), ("k", memory), ("v", memory))
    )
    mixed = np.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T / math.sqrt(q.shape[3])
            scores[:, ~keep[b]] = -np.inf
            if causal:
                scores[np.triu_indices(len(scores), 1)] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[b, :, h] = p / p.sum(-1, keepdims=True) @ v[b, :, h]
    flat = mixed.reshape(*mixed.shape[:2], -1)
    out = w[f"{name}.out.weight"]
    return flat @ out.reshape(-1, out.shape[-1]) + w[f"{name}.out.bias"]


def gelu(x):
    return x * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(x).astype(x.dtype)


def block(x, w, name, part, pre):
    if pre:
        return x + part(norm(x, w, f"{name}_norm"))
    return norm(x + part(x), w, f"{name}_norm")


def layer(x, w, name, keep, activation, pre, memory=None, memory_keep=None):
    def feed(y):
        inner = activation(y @ w[f"{name}.ffn.fc1.weight"] + w[f"{name}.ffn.fc1.bias"])
        return inner @ w[f"{name}.ffn.fc2.weight"] + w[f"{name}.ffn.fc2.bias"]

    decoder = memory is not None
    x = block(x, w, f"{name}.self_attention", lambda y: attend(y, y, w, f"{name}.self_attention", keep, decoder), pre)
    if decoder:
        cross = f"{name}.cross_attention"
        x = block(x, w, cross, lambda y: attend(y, memory, w, cross, memory_keep, False), pre)
    return block(x, w, f"{name}.ffn", feed, pre)


def nll(logits, labels, smoothing):
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = labels != -1
    target = np.eye(logits.shape[-1])[np.where(valid, labels, 0)] * (1 - smoothing) + smoothing / logits.shape[-1]
    return -(target * logp).sum(-1)[valid].mean()


def translation_loss(w, batch, pre, activation):
    d = batch["embedding.source_position_table"].shape[-1]
    x, y = (
        w[f"embedding.{side}.weight"][batch[f"embedding.{side}_ids"]] * math.sqrt(d)
        + batch[f"embedding.{side}_position_table"][batch[f"embedding.{side}_positions"]]
        for side in ("source", "target")
    )
    keep, target_keep = batch["embedding.source_keep"], batch["embedding.target_keep"]
    x = layer(x, w, "encoder.0", keep, activation, pre)
    for i in range(2):
        y = layer(y, w, f"decoder.{i}", target_keep, activation, pre, x, keep)
    return nll(y @ w["embedding.target.weight"].T, batch["head.labels"], 0.1)


def classifier_loss(w, batch, pre, activation):
    x = sum(w[f"embedding.{t}.weight"][batch[f"embedding.{t}.ids"]] for t in ("tokens", "positions", "types"))
    x = norm(x, w, "embedding.norm")
    for i in range(2):
        x = layer(x, w, f"encoder.{i}", batch["embedding.keep"], activation, pre)
    x = norm(x, w, "head.norm") if pre else x
    pooled = np.tanh(x[:, 0] @ w["head.dense.weight"] + w["head.dense.bias"])
    return nll(pooled @ w["head.logits.weight"] + w["head.logits.bias"], batch["head.labels"], 0.0)


@pytest.mark.parametrize(("make", "loss"), [(translation_step, translation_loss), (classifier_step, classifier_loss)])
@pytest.mark.parametrize("norm_place", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_the_reference_agrees_with_a_model_written_apart(make, loss, norm_place, activation, dtype, tolerance):
    graph = make(norm=norm_place, activation=activation)
    weights = {name: w.astype(dtype) for name, w in draw_weights(graph).items()}
    batch = {n: x.astype(dtype) if x.dtype == np.float64 else x for n, x in draw_batch(graph).items()}
    values = run(graph, weights, [batch]).values
    assert values["head.cross_entropy"].dtype == dtype
    functions = {"relu": lambda x: np.maximum(x, 0), "gelu": gelu}
    expected = loss(weights, batch, norm_place == "pre", functions[activation])
    assert values["head.cross_entropy"] == pytest.approx(expected, rel=tolerance)


def test_float32_stays_float32():
    """Weights, states and gradients of a float32 run are float32 throughout."""
    graph = translation_step(dropout=0.2, micro_batches=2)
    weights = {name: w.astype(np.float32) for name, w in draw_weights(graph).items()}
    batch = {n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in draw_batch(graph).items()}
    values = run(graph, weights, [batch, batch]).values
    wide = {n for n, t in graph.tensors.items() if t.values == "float" and values[n].dtype != np.float32}
    assert not wide
