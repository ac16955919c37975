"""What formats do to the gradients: noise over signal, measured on a shrunken copy.

A proxy of what bits cost in quality, of whole policies side by side and of groups of tensors, for `search`. One group
at a time takes a format, all others fp32, and the gradients of all weights are compared with those where the group has
fp32 too: the squares of the differences over the squares of the gradients. Noises of groups that are independent add
up, as variances do, which is what a search assumes. Weights and data are random and dims are small: what comes out
ranks groups, formats and policies, and is no loss.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.names import Varied
from costsim.policy.assign import Assignment, assign
from costsim.policy.groups import Group, groups_of, space_of
from costsim.policy.policy import Policy
from costsim.reference.accuracy import gradient_of
from costsim.reference.blas import one_thread
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import Executor
from costsim.reference.numpy_ops import Array
from costsim.reference.shrink import WIDE, check_memory, shrink, small_dims
from costsim.run.job import Job

EXACT = "fp32"
T = TypeVar("T")
_DIGITS = 4  # that are kept: what sums of floats leave is the same on every machine


@dataclass(frozen=True, eq=False)
class _Trial:
    """A shrunken copy with random weights and data."""

    graph: Graph
    seed: int

    @cached_property
    def weights(self) -> dict[str, Array]:
        """In float64."""
        return draw_weights(self.graph, np.random.default_rng(self.seed))

    @cached_property
    def batches(self) -> list[dict[str, Array]]:
        """Of each micro-batch."""
        draws = (np.random.default_rng((self.seed, micro)) for micro in range(self.graph.micro_batches))
        return [draw_batch(self.graph, rng) for rng in draws]

    @cached_property
    def trainable(self) -> list[str]:
        """The names of the weights that are trained."""
        return sorted(weight.name for weight in self.graph.weights if weight.trainable)

    def gradients(self, assignment: Assignment | None, dtype: DTypeLike = np.float32) -> list[Array]:
        """Those of all weights that are trained. Raises ValueError for numbers that formats cannot hold."""
        weights = {name: weight.astype(dtype) for name, weight in self.weights.items()}
        done = Executor(self.graph, assignment, seed=self.seed).gradients(weights, self.batches)
        return [done.values[gradient_of(self.graph, name)].astype(np.float64) for name in self.trainable]

    def loss_after(self, rate: float, assignment: Assignment) -> float:
        """The loss after a step of plain gradient descent, all under an assignment. Raises ValueError."""
        steps = dict(zip(self.trainable, self.gradients(assignment), strict=True))
        weights = {
            name: (weight - rate * steps.get(name, 0)).astype(np.float32) for name, weight in self.weights.items()
        }
        return float(np.mean(Executor(self.graph, assignment, seed=self.seed).gradients(weights, self.batches).losses))


def _trial(graph: Graph, seed: int) -> _Trial:
    """Raises InputError if it does not fit into memory."""
    check_memory(graph)
    return _Trial(graph, seed)


def _of_gradients(trial: _Trial, exact: Assignment) -> Callable[[Assignment], float]:
    """Noise over signal of the gradients of all weights."""
    signal = trial.gradients(exact)
    return lambda other: _noise_over_signal(signal, trial.gradients(other))


def _of_loss(trial: _Trial, exact: Assignment) -> Callable[[Assignment], float]:
    """By how much the loss is another after a step that changes weights by a hundredth (of their 2-norm)."""
    weights = _square([trial.weights[name] for name in trial.trainable])
    rate = _STEP * math.sqrt(weights / _square(trial.gradients(exact)))
    loss = trial.loss_after(rate, exact)
    return lambda other: abs(trial.loss_after(rate, other) - loss)


_STEP = 0.01
PROXIES = {"reference": _of_gradients, "loss": _of_loss}


@one_thread()
def gradient_noise(
    job: Job,
    policy: Policy,
    fields: Sequence[str],
    varied: Sequence[Varied],
    formats: Sequence[str],
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
    proxy: str = "reference",
) -> dict[tuple[str, str], Fraction]:
    """By group and format: one of PROXIES, against all in fp32. `tick` is called once for each of them.

    Raises InputError if the workload cannot be shrunk, if its copy lacks a group, or numbers are not finite.
    """
    trial = _trial(shrink(job, policies=[policy]), seed)
    groups = _groups(job, trial.graph, policy, fields, varied)
    space = space_of(policy, groups, [*(format for format in formats if format != EXACT), EXACT])

    def under(chosen: dict[int, int], make: Callable[[Assignment], T]) -> T:
        try:
            made = make(assign(trial.graph, space.point(chosen)))
        except ValueError as wrong:
            raise InputError(f"--sensitivity {proxy}: {wrong}") from None
        tick()
        return made

    choices = space.variables[0].choices
    exact = {i: len(choices) - 1 for i in range(len(groups))}
    measure = under(exact, partial(PROXIES[proxy], trial))
    noise = {(group.name, EXACT): Fraction(0) for group in groups if EXACT in formats}
    for i, group in enumerate(groups):
        for k, format in enumerate(choices[:-1]):
            noise[group.name, format] = Fraction(f"{under({**exact, i: k}, measure):.{_DIGITS - 1}e}")
    return noise


@one_thread()
def signal_to_noise(
    runs: Sequence[tuple[Job, Policy]],
    sizes: Mapping[str, int],
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[list[float | None]]:
    """Signal to noise of the gradients of all weights in decibel: of each policy on its workload, phase by phase.

    The signal is what float64 gives; None: no number, as formats cannot hold those that occur. `sizes` are the dims of
    the workloads, which become those of `WIDE`, so that blocks of all policies are whole. What makes the same gradients
    is run once; `tick` is called once a phase all the same. Raises InputError if a workload cannot be shrunk, or does
    not fit into memory.
    """
    dims, policies = small_dims(sizes, WIDE), [policy for _, policy in runs]
    trials = {job: _trial(shrink(job, dims, policies), seed) for job in dict.fromkeys(job for job, _ in runs)}
    signals: dict[Hashable, list[Array]] = {}
    known: dict[Hashable, float | None] = {}

    def decibels(trial: _Trial, policy: Policy, phase: int) -> float | None:
        plain, assignment = _makes(trial.graph), assign(trial.graph, policy, phase)
        if plain not in signals:
            signals[plain] = trial.gradients(None, np.float64)
        held = _makes(trial.graph, assignment)
        if held not in known:
            known[held] = _decibels(trial, assignment, signals[plain])
        tick()
        return known[held]

    return [[decibels(trials[job], policy, i) for i in range(len(policy.file.phases))] for job, policy in runs]


def _makes(graph: Graph, assignment: Assignment | None = None) -> Hashable:
    """All that gradients are made of: ops but those of the update, and what they read and write, in which formats."""
    ops = [op for op in graph.ops if op.phase != "update"]
    names = dict.fromkeys(name for op in ops for name in (*op.inputs, *op.outputs))
    tensors = [(graph.tensors[n], graph.shape(n), assignment and assignment.format(n)) for n in names]
    chains = [assignment.chain(op, i) for op in ops for i in range(len(op.inputs))] if assignment else []
    done = [(op.kind.name, op.original, op.inputs, op.outputs, op.times, repr(op.params)) for op in ops]
    return tuple(tensors), tuple(chains), tuple(done)


def _decibels(trial: _Trial, assignment: Assignment, signal: Sequence[Array]) -> float | None:
    """Signal to noise under an assignment; None: no number."""
    try:
        with np.errstate(all="ignore"):  # what a format makes of a number is what is asked
            noise = _noise_over_signal(signal, trial.gradients(assignment))
    except ValueError:
        return None
    return -10 * math.log10(noise) if 0 < noise < math.inf else None


def _noise_over_signal(signal: Sequence[Array], held: Sequence[Array]) -> float:
    """The square of the differences over that of the signal."""
    return _square([a - b for a, b in zip(held, signal, strict=True)]) / _square(signal)


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
