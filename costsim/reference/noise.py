"""What a format of a group of tensors does to the gradients: noise over signal, measured on a shrunken copy.

A proxy of what bits cost in quality, for `search`. One group at a time takes a format, all others fp32, and the
gradients of all weights are compared with those where the group has fp32 too: the squares of the differences over the
squares of the gradients. Noises of groups that are independent add up, as variances do, which is what a search
assumes. Weights and data are random and dims are small: what comes out ranks groups and formats, and is no loss.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.names import Varied
from costsim.policy.assign import assign
from costsim.policy.groups import Group, groups_of, space_of
from costsim.policy.policy import Policy
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.numpy_ops import Array
from costsim.reference.shrink import check_memory, shrink
from costsim.run.job import Job

EXACT = "fp32"
_DIGITS = 4  # that are kept: what sums of floats leave is the same on every machine


def gradient_noise(
    job: Job,
    policy: Policy,
    fields: Sequence[str],
    varied: Sequence[Varied],
    formats: Sequence[str],
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[tuple[str, str], Fraction]:
    """By group and format: the noise over signal of the gradients of all weights. `tick` is called once a run.

    Raises InputError if the workload cannot be shrunk, if its copy lacks a group, or numbers are not finite.
    """
    graph = shrink(job)
    check_memory(graph)
    groups = _groups(job, graph, policy, fields, varied)
    space = space_of(policy, groups, [*(format for format in formats if format != EXACT), EXACT])
    rng = np.random.default_rng(seed)
    weights = {name: weight.astype(np.float32) for name, weight in draw_weights(graph, rng).items()}
    batches = [draw_batch(graph, np.random.default_rng((seed, micro))) for micro in range(graph.micro_batches)]
    trainable = sorted(weight.name for weight in graph.weights if weight.trainable)

    def gradients(chosen: dict[int, int]) -> list[Array]:
        try:
            done = run(graph, weights, batches, assignment=assign(graph, space.point(chosen)), seed=seed)
        except ValueError as wrong:
            raise InputError(f"--sensitivity reference: {wrong}") from None
        tick()
        return [done.values[gradient_of(graph, name)].astype(np.float64) for name in trainable]

    choices = space.variables[0].choices
    exact = {i: len(choices) - 1 for i in range(len(groups))}
    signal = gradients(exact)
    size = _square(signal)
    noise = {(group.name, EXACT): Fraction(0) for group in groups if EXACT in formats}
    for i, group in enumerate(groups):
        for k, format in enumerate(choices[:-1]):
            errors = [a - b for a, b in zip(gradients({**exact, i: k}), signal, strict=True)]
            noise[group.name, format] = Fraction(f"{_square(errors) / size:.{_DIGITS - 1}e}")
    return noise


def _square(arrays: Sequence[Array]) -> float:
    """The square of the 2-norm of some arrays together."""
    return sum(float(np.vdot(array, array)) for array in arrays)


def _groups(job: Job, graph: Graph, policy: Policy, fields: Sequence[str], varied: Sequence[Varied]) -> list[Group]:
    """The groups of a shrunken copy. Raises InputError if it lacks some of the workload's."""
    groups = groups_of(graph, policy, fields, varied)
    missing = {group.name for group in groups_of(job.graph, policy, fields, varied)} - {group.name for group in groups}
    if missing:
        has_no = f"runs a copy of few layers, which has no {min(missing)}"
        raise InputError(f"--sensitivity reference: {has_no}; leave layer out of --group")
    return groups


def runs(job: Job, policy: Policy, fields: Sequence[str], varied: Sequence[Varied], formats: Sequence[str]) -> int:
    """How many runs `gradient_noise` makes."""
    return 1 + len(groups_of(job.graph, policy, fields, varied)) * len([f for f in formats if f != EXACT])
