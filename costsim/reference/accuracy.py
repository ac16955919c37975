"""How right the numbers of a run are: gradients against finite differences, the noise that formats leave in tensors."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from costsim.graph.graph import Graph
from costsim.reference.execute import Executor, Run
from costsim.reference.numpy_ops import Array

_DIRECTIONS = 3
_STEP = 1e-5  # of central differences, along a direction of length 1
_NO_SIGNAL_DB = 40  # what plain float32 keeps no better than this is zero but for rounding, as a key bias's gradient


def gradient_of(graph: Graph, weight: str) -> str:
    """The tensor that holds the whole gradient of a weight, before clipping."""
    summed = f"{weight}.grad_sum.next"
    return summed if summed in graph.tensors else f"{weight}.grad"


def _part(gradient: Array) -> tuple[slice, ...]:
    """Where in its weight the elements of a gradient are: the first along each axis, if not all of them."""
    return tuple(map(slice, gradient.shape))


def _direction(weight: Array, gradient: Array, rng: np.random.Generator) -> Array:
    """A random direction in what is trained of a weight."""
    direction = np.zeros(weight.shape)
    direction[_part(gradient)] = rng.normal(size=gradient.shape)
    return direction


def gradient_error(
    graph: Graph,
    weights: Mapping[str, Array],
    batches: Sequence[Mapping[str, Array]],
    rng: np.random.Generator,
    seed: int,
) -> float:
    """The largest relative error of the loss's slope along random directions, against central differences."""
    executor = Executor(graph, seed=seed)
    names = [name for name in weights if gradient_of(graph, name) in graph.tensors]
    values = executor.step(weights, batches).values
    worst = 0.0
    for _ in range(_DIRECTIONS):
        direction = {name: _direction(weights[name], values[gradient_of(graph, name)], rng) for name in names}
        length = math.sqrt(math.fsum(float(np.sum(d**2)) for d in direction.values()))
        gradients = {name: values[gradient_of(graph, name)] for name in names}
        slope = math.fsum(float(np.sum(g * direction[n][_part(g)])) for n, g in gradients.items()) / length
        ends = []
        for sign in (1, -1):
            moved = {n: w + sign * _STEP / length * direction[n] if n in direction else w for n, w in weights.items()}
            ends.append(math.fsum(executor.step(moved, batches).losses))
        measured = (ends[0] - ends[1]) / (2 * _STEP)
        worst = max(worst, abs(slope - measured) / max(abs(measured), 1e-12))
    return worst


def noise_db(exact: Array, held: Array) -> float | None:
    """Signal to quantization noise, in decibel; None if there is no signal, infinity if there is no noise."""
    finite = np.isfinite(exact) & np.isfinite(held)
    signal = float((exact[finite].astype(np.float64) ** 2).sum())
    noise = float(((exact[finite] - held[finite].astype(np.float64)) ** 2).sum())
    if signal == 0:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def signal_to_noise(graph: Graph, exact: Run, single: Run, held: Run) -> dict[str, float]:
    """Of every floating-point tensor the signal to noise in decibel that a policy leaves in it, the worst first.

    `exact` ran in plain float64, `single` in plain float32: what is rounding noise there already is left out.
    """
    ratios = {}
    for name, tensor in graph.tensors.items():
        if tensor.values != "float" or name not in exact.values:
            continue
        before, now = (noise_db(exact.values[name], run.values[name]) for run in (single, held))
        if before is not None and now is not None and before > _NO_SIGNAL_DB:
            ratios[name] = now
    return dict(sorted(ratios.items(), key=lambda item: item[1]))


def gradient_errors(graph: Graph, exact: Run, held: Run) -> dict[str, float]:
    """Of every weight the error of its gradient (2-norm), relative to the gradient's, the worst first.

    A gradient below a thousandth of all together counts as that: a key bias's true gradient is 0.
    """
    names = {
        tensor.name: gradient_of(graph, tensor.name)
        for tensor in graph.tensors.values()
        if tensor.role == "weight" and gradient_of(graph, tensor.name) in exact.values
    }
    norms = {weight: float(np.linalg.norm(exact.values[name])) for weight, name in names.items()}
    least = 1e-3 * math.hypot(*norms.values()) or 1.0
    errors = {
        weight: float(np.linalg.norm(held.values[name] - exact.values[name])) / max(norms[weight], least)
        for weight, name in names.items()
    }
    return dict(sorted(errors.items(), key=lambda item: -item[1]))
