"""Predicted beside measured time: a float32 training step, op by op, and the roofline of its counts.

An engine runs the graph that is counted: the reference in NumPy, or PyTorch on a CPU or a CUDA device. The model
counts compulsory traffic and each op's stated work. NumPy passes over memory several times for one op and runs all but
products on one core; PyTorch has a kernel for most ops. What that amounts to is the error reported here; nothing is
fitted to it.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from costsim.cost.count import count
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Spent, kernels, spend
from costsim.graph.graph import Graph
from costsim.policy.assign import assign
from costsim.policy.policy import find_policy, load_policies
from costsim.reference.accelerator import Clock
from costsim.reference.benches import choose_engine
from costsim.reference.execute import Executor
from costsim.reference.numpy_ops import Array
from costsim.reference.validate import check_memory, draw_batch, draw_weights
from costsim.run.job import Job, with_fields

LAYERS = 2
MOST_MACS = 5 * 10**10  # of a step: a second or two at the rates of a few cores, and as long for the other ops
STEPS = 3  # measured, after one that is not
_LEAST_TOKENS = 16
_BYTES = 8  # an element: fp32, and as much again for what an op makes on its way


@dataclass(frozen=True, slots=True)
class KindTime:
    """Time of a step in the ops of one kind, or in several. Predicted None: the profile lacks something."""

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
class Timing:
    """What `measure` found. Measured times are medians over the steps, of each kind and of each sum by itself."""

    workload: str
    fields: tuple[str, ...]  # how the copy differs from the workload
    engine: str  # what ran it
    caveat: str  # what of it the prediction leaves out
    hardware: Hardware
    sizes: dict[str, int]
    parameters: int
    steps: int
    kinds: tuple[KindTime, ...]  # the longest first
    gemms: KindTime
    others: KindTime
    total: KindTime
    totals_s: tuple[float, ...]  # by step


# --- a copy of moderate size ------------------------------------------------------------------------------------------


def macs_of(graph: Graph) -> int:
    """MACs of a step."""
    return sum(graph.work(op)[0] for op in graph.ops)


def _halved(job: Job, fields: dict[str, object]) -> bool:
    """Halve what may be: sequences, then every length; whether there was something left."""
    batch = {**job.document.data["batch"]}
    batch.update({name.removeprefix("batch."): value for name, value in fields.items() if name.startswith("batch.")})
    tokens = [name for name in batch if name.endswith("tokens") and isinstance(batch[name], int)]
    names = ["sequences"] if isinstance(batch.get("sequences"), int) and batch["sequences"] > 1 else tokens
    least = 1 if names == ["sequences"] else _LEAST_TOKENS
    names = [name for name in names if batch[name] // 2 >= least]
    fields.update({f"batch.{name}": batch[name] // 2 for name in names})
    return bool(names)


def moderate(job: Job, most_macs: int = MOST_MACS) -> tuple[Job, tuple[str, ...]]:
    """A copy with two layers, one micro-batch and real widths, with fewer sequences and tokens if it has to be.

    Attention is run op by op, as NumPy runs it. Also the fields that differ, `field=value` each. Raises InputError if
    the fields do not go together.
    """
    model = job.file.model
    fields: dict[str, object] = {
        f"model.{name}": LAYERS
        for name, n in model.items()
        if name.endswith("layers") and isinstance(n, int) and n > LAYERS
    }
    if model.get("attention") == "flash":
        fields["model.attention"] = "eager"
    if job.file.training.micro_batches > 1:
        fields["training.micro_batches"] = 1

    def made() -> tuple[Job, tuple[str, ...]]:
        said = tuple(f"{name}={value}" for name, value in fields.items())
        return with_fields(job, said), said

    copy, said = made()
    while macs_of(copy.graph) > most_macs and _halved(job, fields):
        copy, said = made()
    return copy, said


# --- prediction and measurement ---------------------------------------------------------------------------------------


def predict(graph: Graph, hardware: Hardware, overlap: bool = True) -> dict[str, Spent]:
    """What each op of a step in plain fp32, each a kernel of its own, takes on a device."""
    rows = count(graph, assign(graph, load_policies(find_policy("fp32")), 0), "unfused")
    found = kernels(graph, rows, "unfused", "step", each=True)
    return {kernel.first[1].name: spend(kernel, hardware, overlap) for kernel in found}


Step = Callable[[], dict[str, float]]  # runs one, and says the seconds in each op


class Engine(Protocol):
    """What runs a graph and times its ops."""

    name: str  # with versions, for the notes
    caveat: str  # what of it no prediction takes into account

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step that starts from these float32 weights, on these batches, one per micro-batch."""


class NumpyEngine:
    """The reference."""

    name = f"NumPy {np.__version__}"
    caveat = "NumPy passes over memory several times in one op, and runs all but products on one core"

    def __init__(self, clock: Clock = perf_counter) -> None:
        self._clock = clock

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step, which starts from the same weights each time."""
        executor = Executor(graph, seed=seed, clock=self._clock)

        def step() -> dict[str, float]:
            measured = executor.step(weights, batches).measured
            return {name: its.seconds for name, its in measured.items()}

        return step


class TorchEngine:
    """PyTorch on one of `names.PROCESSORS`."""

    caveat = "ops take longer where PyTorch has no kernel for them, or makes them in memory that is new to the process"

    def __init__(self, torch: Any, device: str = "cpu") -> None:
        self._device = device
        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        self.name = f"PyTorch {torch.__version__}, {where}"

    def prepare(self, graph: Graph, weights: dict[str, Array], batches: Sequence[dict[str, Array]], seed: int) -> Step:
        """A step, which trains on from one call to the next."""
        from costsim.reference.torch_step import TorchStep

        return TorchStep(graph, weights, batches, self._device, seed)


def open_engine(device: str = "cpu", engine: str | None = None) -> Engine:
    """One of `names.ENGINES` on one of `names.PROCESSORS`. Raises InputError if PyTorch or the device is missing."""
    _, torch = choose_engine(engine, device)
    return NumpyEngine() if torch is None else TorchEngine(torch, device)


def _sum(
    kind: str, names: list[str], predicted: dict[str, Spent], steps: list[dict[str, float]], runs: int
) -> KindTime:
    total = Spent()
    for name in names:
        total.add(predicted[name])
    measured = statistics.median(sum(step.get(name, 0.0) for name in names) for step in steps)
    return KindTime(kind, runs, total.macs, total.vector_ops, total.dram_bits, total.bound, total.time_s, measured)


def compare(graph: Graph, predicted: dict[str, Spent], steps: list[dict[str, float]]) -> tuple[KindTime, ...]:
    """Predicted beside measured: the GEMMs, the others, all of them; then by kind, the longest first."""
    names: dict[str, list[str]] = {}
    times: Counter[str] = Counter()
    for op in graph.ops:
        groups = (op.kind.name, "GEMMs" if op.kind.is_contraction else "others", "total")
        for group in groups:
            names.setdefault(group, []).append(op.name)
            times[group] += op.times
    sums = ("GEMMs", "others", "total")
    kinds = [_sum(kind, its, predicted, steps, times[kind]) for kind, its in names.items() if kind not in sums]
    kinds.sort(key=lambda its: -its.measured_s)
    return (*(_sum(kind, names.get(kind, []), predicted, steps, times[kind]) for kind in sums), *kinds)


def _nothing() -> None:
    pass


def measure(
    job: Job,
    hardware: Hardware,
    seed: int = 0,
    steps: int = STEPS,
    most_macs: int = MOST_MACS,
    engine: Engine | None = None,
    tick: Callable[[], None] = _nothing,
) -> Timing:
    """Time a step of a copy of the workload, several times after a first, and compare with the prediction.

    The engine is NumPy's if none is given. `tick` is called after each step. Raises InputError if the copy does not fit
    into memory.
    """
    engine = NumpyEngine() if engine is None else engine
    copy, fields = moderate(job, most_macs)
    graph = copy.graph
    check_memory(graph, _BYTES, "a step", "; --set narrows the model, as in --set model.d_model=512")
    rng = np.random.default_rng(seed)
    weights = draw_weights(graph, rng, np.float32)
    batches = [draw_batch(graph, rng, np.float32) for _ in range(graph.micro_batches)]
    step, found = engine.prepare(graph, weights, batches, seed), []
    for _ in range(1 + steps):
        found.append(step())
        tick()
    timed = found[1:]  # the first fills caches, and starts threads
    gemms, others, total, *kinds = compare(graph, predict(graph, hardware, job.overlap), timed)
    totals = tuple(sum(step.values()) for step in timed)
    return Timing(
        job.workload,
        fields,
        engine.name,
        engine.caveat,
        hardware,
        dict(sorted(graph.sizes.items())),
        graph.parameters,
        steps,
        tuple(kinds),
        gemms,
        others,
        total,
        totals,
    )
