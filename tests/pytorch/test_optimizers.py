"""Optimizers beside Adam against PyTorch's, over several steps."""

import numpy as np
import pytest
import torch
from conftest import adamw, decoder_step

from costsim.graph.ops import OPS
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.torch_kernels.table import KERNELS

STEPS = 4
KINDS = {
    "sgd": ({}, lambda w: torch.optim.SGD(w, lr=0.01, weight_decay=0.1)),
    "momentum": ({"momentum": 0.9}, lambda w: torch.optim.SGD(w, lr=0.01, momentum=0.9, weight_decay=0.1)),
    "adafactor": (
        {"eps": 1e-7, "lr": 0.3},
        lambda w: torch.optim.Adafactor(w, lr=0.3, eps=(1e-7, 1e-3), weight_decay=0.1),
    ),
    "muon": ({}, lambda w: torch.optim.Muon(w, lr=0.01, weight_decay=0.1, momentum=0.95)),
}
WEIGHTS = (
    "decoder.0.self_attention.q.weight",
    "decoder.1.self_attention.out.weight",
    "decoder.0.ffn.fc1.weight",
    "decoder.1.ffn.fc2.weight",
    "decoder.1.ffn_norm.weight",
    "embedding.tokens.weight",
)


def as_torch(x, name):
    """As torch.nn.Linear has it, (out, in); tables and vectors as they are."""
    if x.ndim == 1 or name.startswith("embedding"):
        return torch.tensor(x)
    inputs = x.shape[0] if ".q." in name else x.size // x.shape[-1]
    return torch.tensor(x.reshape(inputs, -1).T.copy())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_pytorchs(kind, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x)  # in which Muon iterates
    fields, make = KINDS[kind]
    graph = decoder_step(adamw(kind=kind, **fields))
    rng = np.random.default_rng(0)
    held = draw_weights(graph, rng)
    names = [name for name in WEIGHTS if kind != "muon" or ("norm" not in name and "embedding" not in name)]
    theirs = {name: torch.nn.Parameter(as_torch(held[name], name)) for name in names}
    optimizer = make(list(theirs.values()))
    for step in range(1, STEPS + 1):
        ran = run(graph, held, [draw_batch(graph, rng)], step=step)
        for name, parameter in theirs.items():
            parameter.grad = as_torch(ran.values[f"{name}.grad"], name)
        before = {name: parameter.detach().clone() for name, parameter in theirs.items()}
        optimizer.step()
        for name, parameter in theirs.items():
            moved = parameter.detach() - before[name]
            ours = as_torch(ran.values[f"{name}.next"], name) - as_torch(held[name], name)
            assert torch.linalg.norm(ours - moved) <= 1e-9 * torch.linalg.norm(moved), (name, step)
        held = ran.weights(graph)


@pytest.mark.parametrize(("kind", "shape"), [("left_vectors", (5, 9)), ("right_vectors", (9, 5))])
def test_directions_span_what_pytorchs_do(kind, shape):
    """Singular vectors are known up to their signs."""
    g = np.random.default_rng(0).normal(size=shape)
    ours, theirs = OPS[kind].run(g, shape=(5, 3)), KERNELS[kind](torch.tensor(g), shape=(5, 3)).numpy()
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-12)
    np.testing.assert_allclose(ours.T @ ours, np.eye(3), atol=1e-12)


def test_an_orthogonal_factor_is_pytorchs():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 3))
    ours, theirs = OPS["orthonormal"].run(x), KERNELS["orthonormal"](torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    q = ours.reshape(6, 6)
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=1e-12)
