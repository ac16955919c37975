"""Checks the cost model against the reference: every op counted and measured, gradients, what quantization does.

The workload is shrunk first (two layers, two micro-batches, small odd dims: `shrink`), which keeps every kind of op.
Random weights and data are those of `draw`; errors of gradients and tensors those of `accuracy`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from costsim.cost.count import count
from costsim.cost.row import Row, each_op
from costsim.errors import InputError
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.reference.accelerator import Measured
from costsim.reference.accuracy import gradient_error, gradient_errors, signal_to_noise
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import Run, run
from costsim.reference.numpy_ops import Array
from costsim.reference.shrink import check_memory, shrink
from costsim.run.job import Job

GRADIENT_LIMIT = 1e-6


# --- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was counted otherwise than it was measured."""

    op: str
    what: str
    counted: int
    measured: int


def _counts(row: Row, op: Op) -> dict[str, int]:
    """What is counted of one op of a row."""
    counts: dict[str, int] = {"MACs": row.macs, "conversions": row.vector.get("quantize", 0)}
    for move in row.moves:
        for way, bits in (("read", move.read_bits), ("written", move.written_bits)):
            name = f"bits {way} of {move.tensor(op)}"
            counts[name] = counts.get(name, 0) + bits
    return counts


def _measurements(record: Measured) -> dict[str, int]:
    """What was measured of one op, under the same names."""
    return {
        "MACs": record.products,
        "conversions": record.quantized,
        **{f"bits read of {tensor}": bits for tensor, bits in record.read_bits.items()},
        **{f"bits written of {tensor}": bits for tensor, bits in record.written_bits.items()},
    }


def compare(rows: Sequence[Row], measured: Mapping[str, Measured]) -> Iterator[Difference]:
    """Where counted rows and measured ops differ: products, conversions, bits read and written of every tensor."""
    uncounted = dict(measured)
    for op, row in each_op(rows):
        name = row.name(op)
        counts, measurements = _counts(row, op), _measurements(uncounted.pop(name, Measured()))
        for what in dict.fromkeys((*counts, *measurements)):
            if counts.get(what, 0) != measurements.get(what, 0):
                yield Difference(name, what, counts.get(what, 0), measurements.get(what, 0))
    for name, record in uncounted.items():
        yield Difference(name, "bits moved", 0, sum(record.read_bits.values()) + sum(record.written_bits.values()))


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """What one policy does in one phase."""

    policy: str
    phase: int
    setup: str
    ops: int
    differences: list[Difference]
    noise_db: dict[str, float]  # by tensor, the worst first
    gradient_errors: dict[str, float]  # by weight, the worst first


@dataclass(frozen=True, slots=True)
class Validation:
    """All checks of a workload."""

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
class _Trial:
    """What all policies are run on, and what comes out without any."""

    graph: Graph
    weights: dict[str, Array]
    batches: list[dict[str, Array]]
    exact: Run  # in float64
    single: Run  # in float32
    seed: int


def _in_single(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def _check(trial: _Trial, policy: Policy, phase: int, traffic: Traffic) -> Check:
    graph, assignment = trial.graph, assign(trial.graph, policy, phase)
    rows = count(graph, assignment, traffic)
    held = run(
        graph,
        _in_single(trial.weights),
        trial.batches,
        assignment=assignment,
        group=group_ops(graph, traffic),
        seed=trial.seed,
        measure=True,
    )
    return Check(
        policy.name,
        phase,
        policy.setup[phase],
        len(each_op(rows)),
        list(compare(rows, held.measured)),
        signal_to_noise(graph, trial.exact, trial.single, held),
        gradient_errors(graph, trial.exact, held),
    )


def train(
    graph: Graph, policy: Policy | None, steps: int, seed: int, weights: Mapping[str, Array], tick: Callable[[], None]
) -> list[float]:
    """The loss of each of some steps on random data, in plain float32 or under a policy and its schedule."""
    phases = [0] * steps if policy is None else [i for i, n in enumerate(schedule(policy, steps)) for _ in range(n)]
    held = _in_single(weights)
    losses = []
    for step, phase in enumerate(phases, 1):
        assignment = None if policy is None else assign(graph, policy, phase)
        done = run(graph, held, _batches(graph, seed, step), assignment=assignment, seed=seed, step=step)
        losses.append(sum(done.losses))
        held = done.weights(graph)
        tick()
    return losses


def work_to_do(job: Job, steps: int) -> int:
    """How many times `validate` will tick."""
    return 1 + sum(len(policy.file.phases) for policy in job.policies) + (len(job.policies) + 1) * steps * (steps > 1)


def validate(job: Job, steps: int = 1, seed: int = 0, tick: Callable[[], None] = lambda: None) -> Validation:
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
    trial = _Trial(graph, weights, batches, exact, single, seed)
    error = gradient_error(graph, weights, batches, rng, seed)
    tick()
    checks: list[Check] = []
    losses: dict[str, list[float]] = {}
    for policy in job.policies:
        try:
            for phase in range(len(policy.file.phases)):
                checks.append(_check(trial, policy, phase, traffic))
                tick()
            if steps > 1:
                losses[policy.name] = train(graph, policy, steps, seed, weights, tick)
        except ValueError as wrong:
            raise InputError(f"{policy.name}: {wrong}") from None
    if steps > 1:
        losses = {"plain float32": train(graph, None, steps, seed, weights, tick), **losses}
    sizes = dict(sorted(graph.sizes.items()))
    return Validation(job.workload, traffic, sizes, graph.micro_batches, len(graph.ops), error, checks, losses)
