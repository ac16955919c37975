"""Predicted beside measured time: a float32 training step, op by op, and the roofline of its counts.

One of `engines` runs the graph that is counted: the reference in NumPy, or PyTorch on a CPU or a CUDA device. On a
profile without measured kernels the prediction is a roofline, which counts compulsory traffic and the work that ops
state; NumPy passes over memory several times for one op. With them it is what kernels of other sizes took by themselves
(`kernel_bench`). What is left is the error reported here, beside the machine's own noise; nothing is fitted to steps.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from costsim.cost.count import count
from costsim.devices.profile import Hardware
from costsim.devices.roofline import kernels, spend
from costsim.devices.spent import Spent
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.assign import assign
from costsim.policy.load import find_policy, load_policies
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.engines import Engine, NumpyEngine, Step
from costsim.reference.meters import Meter
from costsim.reference.shrink import MOST_MACS, check_memory, moderate
from costsim.run.job import Job

STEPS = 6  # measured, after one that is not; every other one is of one half
_BYTES = 8  # an element: fp32, and as much again for what an op makes on its way


@dataclass(frozen=True, slots=True)
class KindTime:
    """Time of a step in the ops of one kind, or of several. Predicted None: the profile lacks something."""

    kind: str
    runs: int
    macs: int
    vector_ops: int
    dram_bits: int
    bound: str
    predicted_s: float | None
    measured_s: float

    @property
    def error_percent(self) -> float | None:
        """How far the prediction is above (or below) what was measured."""
        if self.predicted_s is None or not self.measured_s:
            return None
        return 100 * (self.predicted_s / self.measured_s - 1)


@dataclass(frozen=True, slots=True)
class StepEnergy:
    """Energy of a step, predicted and measured. Predicted None: the profile has no energies of its own."""

    meter: str  # what was measured
    predicted_j: float | None
    measured_j: float  # mean of the steps, with all that the machine draws meanwhile

    @property
    def error_percent(self) -> float | None:
        """How far the prediction is above (or below) what was measured."""
        return (
            None if self.predicted_j is None or not self.measured_j else 100 * (self.predicted_j / self.measured_j - 1)
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """A step's times, predicted and measured: medians over the steps, of each kind and of each sum by itself."""

    workload: str
    fields: tuple[str, ...]  # how the copy differs from the workload
    engine: str  # what ran it
    traffic: Traffic  # what was predicted to fuse
    caveat: str  # what of it the prediction leaves out
    hardware: Hardware
    sizes: dict[str, int]
    parameters: int
    steps: int
    kinds: tuple[KindTime, ...]  # the longest first
    gemms: KindTime | None  # None: nothing is known of single ops
    others: KindTime | None
    total: KindTime
    totals_s: tuple[float, ...]  # by step
    energy: StepEnergy | None  # None: not measured
    spread_s: float  # how far the prediction may be off, by what was measured of kernels
    not_measured: tuple[str, ...]  # kinds that a profile with measured kernels lacks

    @property
    def noise_percent(self) -> float | None:
        """How far the median of every other step is from that of those in between: no prediction can do better."""
        halves = self.totals_s[::2], self.totals_s[1::2]
        if not all(halves):
            return None
        a, b = map(statistics.median, halves)
        return 100 * abs(a / b - 1) if b else None


def predict(graph: Graph, hardware: Hardware, overlap: bool = True, traffic: Traffic = "unfused") -> dict[str, Spent]:
    """What each kernel of a step in plain fp32 takes on a device, by its first op: unfused, each op is one."""
    rows = count(graph, assign(graph, load_policies(find_policy("fp32")), 0), traffic)
    each = kernels(graph, rows, traffic, "step", each=True)
    return {kernel.first[1].name: spend(kernel, hardware, overlap) for kernel in each}


def _sum(
    kind: str, names: list[str], predicted: dict[str, Spent], steps: list[dict[str, float]], runs: int
) -> KindTime:
    total = sum((predicted[name] for name in names if name in predicted), Spent())
    measured = statistics.median(sum(step.get(name, 0.0) for name in names) for step in steps)
    return KindTime(kind, runs, total.macs, total.vector_ops, total.dram_bits, total.bound, total.time_s, measured)


def _of_kind(op: Op) -> tuple[str, ...]:
    return op.kind.name, "GEMMs" if op.kind.is_contraction else "others"


def _of_part(op: Op) -> tuple[str, ...]:
    return ("update" if op.phase == "update" else "forward and backward",)


_GROUPS: Mapping[Traffic, Callable[[Op], tuple[str, ...]]] = {"unfused": _of_kind, "fused": _of_part}


def compare(
    graph: Graph,
    predicted: dict[str, Spent],
    steps: list[dict[str, float]],
    groups: Callable[[Op], tuple[str, ...]] = _of_kind,
) -> dict[str, KindTime]:
    """Predicted beside measured: by the groups that ops are in, the longest first, and the total."""
    names: dict[str, list[str]] = {"total": []}
    times: Counter[str] = Counter()
    for op in graph.ops:
        if op.kind.view:
            continue  # it is in no kernel
        for group in (*groups(op), "total"):
            names.setdefault(group, []).append(op.name)
            times[group] += op.times
    timed = [_sum(group, names[group], predicted, steps, times[group]) for group in names]
    return {each.kind: each for each in sorted(timed, key=lambda each: -each.measured_s)}


def _run(step: Step, steps: int, meter: Meter | None, tick: Callable[[], None]) -> tuple[list[dict[str, float]], float]:
    """The seconds of each op by step, and the joules of all steps together (0 without a meter)."""
    before, timed = meter.joules() if meter else 0.0, []
    for _ in range(steps):
        timed.append(step())
        tick()
    return timed, (meter.joules() if meter else 0.0) - before


def _prepared(engine: Engine, graph: Graph, seed: int) -> Step:
    check_memory(graph, _BYTES, "a step", "; --set narrows the model, as in --set model.d_model=512")
    rng = np.random.default_rng(seed)
    weights = draw_weights(graph, rng, np.float32)
    return engine.prepare(
        graph, weights, [draw_batch(graph, rng, np.float32) for _ in range(graph.micro_batches)], seed
    )


def measure(
    job: Job,
    hardware: Hardware,
    seed: int = 0,
    steps: int = STEPS,
    most_macs: int = MOST_MACS,
    engine: Engine | None = None,
    tick: Callable[[], None] = lambda: None,
    meter: Meter | None = None,
) -> Timing:
    """Time a step of a copy of the workload, several times after a first, and compare with the prediction.

    The engine is NumPy's if none is given; one that compiles has two times, none by kind. `tick` is called after each
    step; `meter` counts energy meanwhile. Raises InputError if the copy does not fit into memory.
    """
    engine = NumpyEngine() if engine is None else engine
    copy, fields = moderate(job, most_macs)
    graph = copy.graph
    step = _prepared(engine, graph, seed)
    step()  # fills caches, and starts threads
    tick()
    timed, joules = _run(step, steps, meter, tick)
    predicted = predict(graph, hardware, job.overlap, engine.traffic)
    kinds = compare(graph, predicted, timed, _GROUPS[engine.traffic])
    total, gemms, others = kinds.pop("total"), kinds.pop("GEMMs", None), kinds.pop("others", None)
    whole = sum(predicted.values(), Spent())
    return Timing(
        job.workload,
        fields,
        engine.name,
        engine.traffic,
        engine.caveat,
        hardware,
        dict(sorted(graph.sizes.items())),
        graph.parameters,
        steps,
        tuple(kinds.values()),
        gemms,
        others,
        total,
        totals_s=tuple(sum(step.values()) for step in timed),
        energy=StepEnergy(meter.name, whole.energy_j, joules / steps) if meter else None,
        spread_s=whole.spread_s,
        not_measured=tuple(sorted(whole.not_measured)),
    )
