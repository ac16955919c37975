"""Checks the cost model against the reference: every op counted and measured, gradients, what quantization does.

The workload is shrunk first (two layers, two micro-batches, small odd dims), which keeps every kind of op.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from costsim.cost.count import count
from costsim.cost.row import Row, each_op
from costsim.errors import InputError
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph
from costsim.inputs import files, schema, schema_workload
from costsim.models.build import build
from costsim.names import Traffic
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.reference.accelerator import Measured
from costsim.reference.execute import Run, run
from costsim.reference.numpy_ops import Array
from costsim.run.job import Job

LAYERS = 2
MICRO_BATCHES = 2
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 37)  # dims: odd, so that blocks of every size are cut off somewhere
GRADIENT_LIMIT = 1e-6
_DIRECTIONS = 3


# --- a small copy of the workload -------------------------------------------------------------------------------------


def _small_dims(sizes: Mapping[str, int]) -> dict[str, int]:
    """Small odd sizes in the order of the real ones; what is smaller stays."""
    ordered = sorted(sizes, key=lambda dim: (sizes[dim], dim))
    spare = max(0, len(ordered) - len(PRIMES))
    small = {dim: PRIMES[max(0, i - spare)] for i, dim in enumerate(ordered)}
    return {dim: min(size, small[dim]) for dim, size in sizes.items()}


def shrink(job: Job) -> Graph:
    """The graph of the workload with fewer layers and micro-batches and small dims.

    Raises InputError if that would leave out a kind of op in some phase.
    """
    model = job.file.model
    sets = [f"model.{name}={LAYERS}" for name, n in model.items() if name.endswith("layers") and n > LAYERS]
    if job.file.training.micro_batches > MICRO_BATCHES:
        sets.append(f"training.micro_batches={MICRO_BATCHES}")
    document = files.override(job.document, sets)
    graph = build(schema.validate(schema_workload.Workload, document), document)
    graph = replace(graph, sizes=_small_dims(graph.sizes))
    lost = {(op.kind.name, op.phase) for op in job.graph.ops} - {(op.kind.name, op.phase) for op in graph.ops}
    if lost:
        kind, phase = min(lost)
        raise InputError(f"{job.workload}: shrinking it would leave out the op {kind} of the {phase}")
    return graph


def check_memory(
    graph: Graph,
    bytes_each: int = 8 * 3,  # float64, copies, bits
    what: str = "the reference",
    hint: str = "",
) -> None:
    """Raise InputError, with the number, if a run that takes so many bytes an element would not fit into memory."""
    needed = bytes_each * sum(graph.elements(tensor.dims) for tensor in graph.tensors.values())
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise InputError(f"{what} would need about {needed} bytes of memory, {free} are free{hint}")


def draw_weights(graph: Graph, rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Array]:
    """Weights as trainers start them: matrices normal by their fan-in, norms near 1, biases near 0."""
    weights = {}
    for tensor in graph.tensors.values():
        if tensor.role == "weight" and tensor.alias is None:
            shape = graph.shape(tensor.name)
            spread = 1 / math.sqrt(max(1, math.prod(shape[:-1]))) if len(shape) > 1 else 0.1
            centre = 1.0 if len(shape) == 1 and tensor.name.endswith("norm.weight") else 0.0
            weights[tensor.name] = rng.normal(centre, spread, shape).astype(dtype)
    return weights


def _bound(graph: Graph, name: str) -> int:
    """Below what ids or labels must be, by the op that reads them."""
    for op, _ in graph.readers[name]:
        if op.kind.name == "embed":
            return graph.shape(op.inputs[0])[0]
        if op.kind.name == "cross_entropy":
            return graph.shape(op.inputs[0])[-1]
    return 1


def draw_batch(graph: Graph, rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Array]:
    """Random data for one micro-batch; of padding masks the first key is kept."""
    batch: dict[str, Array] = {}
    for tensor in graph.tensors.values():
        if tensor.role != "data" or tensor.name in graph.producer:
            continue
        shape = graph.shape(tensor.name)
        if tensor.values == "index":
            batch[tensor.name] = rng.integers(0, _bound(graph, tensor.name), shape)
        elif tensor.values == "mask":
            batch[tensor.name] = rng.random(shape) < 0.8
            batch[tensor.name][..., 0] = True
        else:
            batch[tensor.name] = rng.normal(size=shape).astype(dtype)
    return batch


# --- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was counted otherwise than it was measured."""

    op: str
    what: str
    counted: int
    measured: int


def compare(rows: Sequence[Row], measured: Mapping[str, Measured]) -> Iterator[Difference]:
    """Where counted rows and measured ops differ: products, conversions, bits read and written of every tensor."""
    missing = dict(measured)
    for op, row in each_op(rows):
        name = row.name(op)
        seen = missing.pop(name, Measured())
        counted: dict[str, int] = {"MACs": row.macs, "conversions": row.vector.get("quantize", 0)}
        found: dict[str, int] = {"MACs": seen.products, "conversions": seen.quantized}
        for move in row.moves:
            for way, bits in (("read", move.read_bits), ("written", move.written_bits)):
                what = f"bits {way} of {move.tensor(op)}"
                counted[what] = counted.get(what, 0) + bits
        for way, moved in (("read", seen.read_bits), ("written", seen.written_bits)):
            for tensor, bits in moved.items():
                found[f"bits {way} of {tensor}"] = bits
        for what in dict.fromkeys((*counted, *found)):
            if counted.get(what, 0) != found.get(what, 0):
                yield Difference(name, what, counted.get(what, 0), found.get(what, 0))
    for name, seen in missing.items():
        yield Difference(name, "bits moved", 0, sum(seen.read_bits.values()) + sum(seen.written_bits.values()))


# --- gradients and noise ----------------------------------------------------------------------------------------------


def gradient_of(graph: Graph, weight: str) -> str:
    """The tensor that holds the whole gradient of a weight, before clipping."""
    summed = f"{weight}.grad_sum.next"
    return summed if summed in graph.tensors else f"{weight}.grad"


def gradient_error(
    graph: Graph,
    weights: Mapping[str, Array],
    batches: Sequence[Mapping[str, Array]],
    rng: np.random.Generator,
    seed: int,
) -> float:
    """The largest relative error of the loss's slope along random directions, against central differences."""
    names = [name for name in weights if gradient_of(graph, name) in graph.tensors]
    values = run(graph, weights, batches, seed=seed).values
    worst = 0.0
    for _ in range(_DIRECTIONS):
        direction = {name: rng.normal(size=weights[name].shape) for name in names}
        length = math.sqrt(math.fsum(float(np.sum(d**2)) for d in direction.values()))
        slope = math.fsum(float(np.sum(values[gradient_of(graph, n)] * d)) for n, d in direction.items()) / length
        step = 1e-5
        ends = []
        for sign in (1, -1):
            moved = {n: w + sign * step / length * direction[n] if n in direction else w for n, w in weights.items()}
            ends.append(math.fsum(run(graph, moved, batches, seed=seed).losses))
        measured = (ends[0] - ends[1]) / (2 * step)
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


_NO_SIGNAL_DB = 40  # what plain float32 keeps no better than this is zero but for rounding, as a key bias's gradient


def signal_to_noise(graph: Graph, exact: Run, single: Run, held: Run) -> dict[str, float]:
    """Of every floating-point tensor the noise that a policy leaves in it, the worst first.

    `exact` ran in plain float64, `single` in plain float32: what is rounding noise there already is left out.
    """
    found = {}
    for name, tensor in graph.tensors.items():
        if tensor.values != "float" or name not in exact.values:
            continue
        before, now = (noise_db(exact.values[name], its.values[name]) for its in (single, held))
        if before is not None and now is not None and before > _NO_SIGNAL_DB:
            found[name] = now
    return dict(sorted(found.items(), key=lambda item: item[1]))


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


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one policy in one phase."""

    policy: str
    phase: int
    setup: str
    ops: int
    differences: list[Difference]
    noise_db: dict[str, float]  # by tensor, the worst first
    gradient_errors: dict[str, float]  # by weight, the worst first


@dataclass(frozen=True, slots=True)
class Validation:
    """What `validate` found."""

    workload: str
    traffic: Traffic
    sizes: dict[str, int]
    micro_batches: int
    ops: int
    gradient_error: float
    checks: list[Check]
    losses: dict[str, list[float]] = field(default_factory=dict)  # by policy, a loss per step

    @property
    def passed(self) -> bool:
        """Whether all counts are what was measured, and gradients are right."""
        return self.gradient_error <= GRADIENT_LIMIT and not any(check.differences for check in self.checks)


def _batches(graph: Graph, seed: int, step: int) -> list[dict[str, Array]]:
    return [draw_batch(graph, np.random.default_rng((seed, step, micro))) for micro in range(graph.micro_batches)]


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """What all policies are run on, and what comes out without any."""

    graph: Graph
    weights: dict[str, Array]
    batches: list[dict[str, Array]]
    exact: Run
    single: Run
    seed: int


def _in_single(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def _check(bench: _Bench, policy: Policy, index: int, traffic: Traffic) -> Check:
    graph, assignment = bench.graph, assign(bench.graph, policy, index)
    rows = count(graph, assignment, traffic)
    held = run(
        graph,
        _in_single(bench.weights),
        bench.batches,
        assignment=assignment,
        group=group_ops(graph, traffic),
        seed=bench.seed,
        measure=True,
    )
    return Check(
        policy.name,
        index,
        policy.setup[index],
        len(each_op(rows)),
        list(compare(rows, held.measured)),
        signal_to_noise(graph, bench.exact, bench.single, held),
        gradient_errors(graph, bench.exact, held),
    )


def train(
    graph: Graph, policy: Policy | None, steps: int, seed: int, weights: Mapping[str, Array], tick: Callable[[], None]
) -> list[float]:
    """The loss of each of some steps on random data, in plain float32 or under a policy and its schedule."""
    phases = [0] * steps if policy is None else [i for i, n in enumerate(schedule(policy, steps)) for _ in range(n)]
    held = _in_single(weights)
    losses = []
    for step, index in enumerate(phases, 1):
        assignment = None if policy is None else assign(graph, policy, index)
        done = run(graph, held, _batches(graph, seed, step), assignment=assignment, seed=seed, step=step)
        losses.append(sum(done.losses))
        held = done.weights(graph)
        tick()
    return losses


def work_to_do(job: Job, steps: int) -> int:
    """How many times `validate` will tick."""
    return 1 + sum(len(policy.file.phases) for policy in job.policies) + (len(job.policies) + 1) * steps * (steps > 1)


def _nothing() -> None:
    pass


def validate(job: Job, steps: int = 1, seed: int = 0, tick: Callable[[], None] = _nothing) -> Validation:
    """Run a shrunken copy of a workload under each of its policies and compare with what is counted.

    `steps` above 1 also train that many, on random data. `tick` is called as work is done. Raises InputError if the
    workload cannot be shrunk, does not fit into memory, or meets numbers that a format cannot hold.
    """
    graph, traffic = shrink(job), job.convention.traffic
    check_memory(graph)
    rng = np.random.default_rng(seed)
    weights, batches = draw_weights(graph, rng), _batches(graph, seed, 1)
    exact = run(graph, weights, batches, seed=seed)
    single = run(graph, _in_single(weights), batches, seed=seed)
    bench = _Bench(graph, weights, batches, exact, single, seed)
    error = gradient_error(graph, weights, batches, rng, seed)
    tick()
    checks: list[Check] = []
    losses: dict[str, list[float]] = {}
    for policy in job.policies:
        try:
            for index in range(len(policy.file.phases)):
                checks.append(_check(bench, policy, index, traffic))
                tick()
            if steps > 1:
                losses[policy.name] = train(graph, policy, steps, seed, weights, tick)
        except ValueError as wrong:
            raise InputError(f"{policy.name}: {wrong}") from None
    if steps > 1:
        losses = {"plain float32": train(graph, None, steps, seed, weights, tick), **losses}
    sizes = dict(sorted(graph.sizes.items()))
    return Validation(job.workload, traffic, sizes, graph.micro_batches, len(graph.ops), error, checks, losses)
