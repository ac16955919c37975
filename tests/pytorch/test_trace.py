"""Traced modules against PyTorch itself: counts of its own counters, gradients of autograd, ops of AOTAutograd."""

import numpy as np
import pytest
import traced_models

from costsim.cost.memory import memory
from costsim.inputs.schema_workload import Optimizer
from costsim.models import traced
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.policy.load import find_policy, load_policies
from costsim.reference.accuracy import gradient_of
from costsim.reference.execute import run
from costsim.trace.trace import trace

SPECS = ["gpt", "checkpointed"]


def step(path, made, batch=None, micro_batches=1, trainable=("*",)):
    path.write_text(made.text())
    model = traced.Model(family="traced", file=str(path))
    optimizer = Optimizer(kind="adamw", lr=0.01)
    return training_step(model, traced.Batch(**(batch or {})), optimizer, micro_batches, 0.0, trainable)


def flops(graph):
    """Of products, forward, and all else."""
    forward, rest = (
        sum(2 * graph.work(op)[0] for op in graph.ops if op.gemm and (op.phase == "forward") is first)
        for first in (True, False)
    )
    return forward, rest


def saved_bytes(graph):
    kept = memory(graph, assign(graph, load_policies(find_policy("fp32"))), "unfused").activations
    return sum(place.size_bytes for place in kept)


@pytest.mark.parametrize("spec", SPECS)
def test_counts_are_those_of_pytorchs_own_counters(spec, tmp_path):
    made = trace(f"traced_models:{spec}")
    graph = step(tmp_path / "model.json", made)
    assert flops(graph) == (made.counted["flops_forward"], made.counted["flops_backward"])
    assert graph.parameters == made.counted["parameters"] > 0
    assert saved_bytes(graph) == made.counted["saved_bytes"] > 0


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_gradients_are_those_of_autograd(spec, micro_batches, tmp_path):
    graph = step(tmp_path / "model.json", trace(f"traced_models:{spec}"), micro_batches=micro_batches)
    module, (ids, labels) = getattr(traced_models, spec)()
    module = module.double()
    parameters = dict(module.named_parameters())
    ours = {name: as_named(graph, name) for name in parameters}
    weights = {ours[n]: x.detach().numpy().reshape(graph.shape(ours[n])) for n, x in parameters.items()}
    batch = {"ids": ids.numpy(), "labels": labels.numpy()}
    done = run(graph, weights, [batch] * micro_batches)
    loss = module(ids, labels)
    loss.backward()
    assert done.losses == pytest.approx([loss.item() / micro_batches] * micro_batches, rel=1e-12)
    for name, x in parameters.items():
        gradient = done.values[gradient_of(graph, ours[name])].reshape(x.shape)
        np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def as_named(graph, name):
    """The name of a parameter in the graph."""
    path, _, last = name.rpartition(".")
    return next(w.name for w in graph.weights if w.name in (name, f"embedding.{name}", f"{path}.norm.{last}"))
