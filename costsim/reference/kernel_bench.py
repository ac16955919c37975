"""Times kernels of a device kind by kind, each by itself at several sizes, and fits how long they take.

The ops come from training steps whose dims are those of `SIZES`, whatever the workload's are: an op is stopped at on
the way, run again and again on the operands that it has there, and timed. Before each run the caches near the units are
filled with something else, for that is how a step finds them. Nothing here sees the step whose time is predicted later.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from costsim.devices.measured import ANY_PRODUCT, QUANTIZE, KernelTimes, elements_of
from costsim.graph.graph import Graph, Op
from costsim.reference.accelerator import Clock
from costsim.reference.bench import Task
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.engines import Engine
from costsim.reference.shrink import moderate
from costsim.run.job import Job, Request, prepare

# Workloads whose steps have most kinds of ops that families share.
WORKLOADS = ("gpt2-small", "glue-mrpc-dsq", "iwslt17-dsq", "llama-60m", "gemma-2-2b")
_LEAST, _MOST = 4, 30  # runs of an op that count
_ORDINARY = ("batch", "tokens", "model", "ffn", "heads", "head", "vocab")
SIZES: tuple[Mapping[str, int], ...] = tuple(
    dict(zip(_ORDINARY, sizes, strict=True))
    for sizes in (
        (2, 32, 128, 512, 4, 32, 1000),
        (1, 256, 256, 2048, 4, 64, 4000),
        (8, 128, 384, 1024, 12, 32, 2000),
        (4, 128, 512, 1024, 8, 64, 16000),
        (1, 128, 768, 1536, 8, 96, 50000),
        (1, 512, 1024, 4096, 16, 64, 8000),
        (1, 512, 128, 512, 4, 32, 50000),  # logits beyond 32 MiB: from there on glibc takes new memory each time
    )
)
# Other dims follow from one of these.
_LIKE: Mapping[str, str] = {
    "source": "tokens",
    "target": "tokens",
    "positions": "tokens",
    "pooled": "model",
    "source_vocab": "vocab",
    "target_vocab": "vocab",
}
QUANTIZED: tuple[tuple[int, int], ...] = ((64, 256), (128, 1024), (512, 2048), (2048, 2048))  # rows and columns


class Seen(NamedTuple):
    """What runs of one op took, by its shape."""

    kind: str
    product: bool
    macs: int
    elements: tuple[int, ...]  # of each operand and result
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle run; never 0, which a coarse clock may say."""
        return max(statistics.median(self.seconds), 1e-9)

    @property
    def spread(self) -> float:
        """Half of what the middle half of the runs spans, as a part of the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median_s


# --- ops of many sizes ------------------------------------------------------------------------------------------------


def sized(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The same step with other sizes; dims that nothing is said of stay."""
    dims = {dim: sizes[_LIKE.get(dim, dim)] for dim in graph.sizes if _LIKE.get(dim, dim) in sizes}
    if "group" in graph.sizes:  # queries of several heads share a key
        dims["kv_heads"] = max(1, sizes["heads"] // graph.sizes["group"])
    return graph.resized({dim: size for dim, size in dims.items() if dim in graph.sizes})


def _few(job: Job) -> Graph:
    """The step of few layers and one micro-batch."""
    copy, _ = moderate(job, most_macs=10**30)
    return copy.graph


def graphs(jobs: Iterable[Job]) -> list[Graph]:
    """The steps that benches stop in, small ones first."""
    few = [_few(job) for job in jobs]
    return [sized(graph, sizes) for sizes in SIZES for graph in few]


def shipped() -> list[Job]:
    """The jobs of the workloads whose kinds a profile has."""
    return [prepare(Request(name)) for name in WORKLOADS]


_Key = tuple[str, tuple[int, ...], int]


def _key(graph: Graph, op: Op) -> _Key:
    return op.kind.name, elements_of(graph, op), graph.work(op)[0]


def _once(steps: Sequence[Graph]) -> Iterator[set[_Key]]:
    """What is to be timed in each step: what no step before has in the same size."""
    known: set[_Key] = set()
    for graph in steps:
        here = {_key(graph, op) for op in graph.ops if not op.kind.view and not op.kind.collective}
        yield here - known
        known |= here


def work_to_do(steps: Sequence[Graph], formats: Sequence[str] = ()) -> int:
    """How many times `see` will tick."""
    return sum(map(len, _once(steps))) + len(formats) * len(QUANTIZED)


# --- timing -----------------------------------------------------------------------------------------------------------


def time_op(task: Task, engine: Engine, clock: Clock, budget_s: float) -> tuple[float, ...]:
    """Seconds of runs, each with caches as a step leaves them, after a first that does not count."""
    task()
    engine.wait()
    seconds: list[float] = []
    end = clock() + budget_s
    while len(seconds) < _LEAST or (len(seconds) < _MOST and clock() < end):
        engine.disturb()
        engine.wait()
        start = clock()
        task()
        engine.wait()
        seconds.append(clock() - start)
    return tuple(seconds)


def see(
    engine: Engine,
    steps: Sequence[Graph],
    seconds: float,
    clock: Clock,
    tick: Callable[[], None],
    formats: Sequence[str] = (),
    seed: int = 0,
) -> list[Seen]:
    """Time the ops of steps in about so many seconds, each kind and size once, and quantize kernels of some formats.

    `tick` is called after each.
    """
    seen: list[Seen] = []
    every, end = list(_once(steps)), clock() + seconds
    left = work_to_do(steps, formats)

    def timed(kind: str, product: bool, macs: int, elements: tuple[int, ...], task: Task) -> None:
        nonlocal left
        taken = time_op(task, engine, clock, max(0.0, end - clock()) / left)
        seen.append(Seen(kind, product, macs, elements, taken))
        left -= 1
        tick()

    for shape in QUANTIZED if formats else ():
        x: Any = np.random.default_rng(seed).standard_normal(shape, np.float32)
        for format in formats:
            timed(QUANTIZE + format, False, 0, (x.size, x.size), engine.quantizer(format, x))
    for graph, wanted in zip(steps, every, strict=True):

        def look(op: Op, task: Task, graph: Graph = graph, wanted: set[_Key] = wanted) -> None:
            if not op.kind.view and not op.kind.collective and (key := _key(graph, op)) in wanted:
                wanted.discard(key)
                timed(op.kind.name, op.kind.is_contraction, key[2], key[1], task)

        if wanted:
            rng = np.random.default_rng(seed)
            weights = draw_weights(graph, rng, np.float32)
            engine.show(graph, weights, draw_batch(graph, rng, np.float32), seed, look)
    return seen


# --- how long a kind takes --------------------------------------------------------------------------------------------


def least_squares(rows: Sequence[Sequence[float]]) -> list[float]:
    """The coefficients, none below 0, under which the rows are nearest to 1: least squares over the subsets.

    Of few unknowns all subsets can be tried; the best whose coefficients are above 0 is the constrained optimum
    (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23).
    """
    matrix: Any = np.array(rows, float)
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1
    matrix = matrix / scale
    best, least = np.zeros(len(scale)), math.inf
    for size in range(1, len(scale) + 1):
        for chosen in map(list, combinations(range(len(scale)), size)):
            found = np.linalg.lstsq(matrix[:, chosen], np.ones(len(matrix)), rcond=None)[0]
            if (found < 0).any():
                continue
            missed = float(((matrix[:, chosen] @ found - 1) ** 2).sum())
            if missed < least:
                least, best = missed, np.zeros(len(scale))
                best[chosen] = found
    return [float(each) for each in best / scale]


def _product(seen: Sequence[Seen]) -> KernelTimes:
    """Launch, MACs and elements of a product, by relative errors."""
    rows = [[part / each.median_s for part in (1, each.macs, *each.elements)] for each in seen]
    launch_s, mac_s, *element_s = least_squares(rows)
    return KernelTimes(launch_s, mac_s, tuple(element_s), (), 0.0)


def _other(seen: Sequence[Seen]) -> KernelTimes:
    """A launch by least squares of relative errors, as if all else were in proportion to size; then seconds by size.

    Sizes within a factor of four are one, for more of them would only be noise.
    """
    launch_s, _ = least_squares([[1 / each.median_s, sum(each.elements) / each.median_s] for each in seen])
    launch_s = min(launch_s, *(each.median_s for each in seen), math.inf)
    near: dict[int, list[tuple[int, float]]] = {}
    for each in seen:
        size = sum(each.elements)
        near.setdefault((size.bit_length() - 1) // 2, []).append((size, each.median_s - launch_s))
    points, longest = [], 0.0
    for _, here in sorted(near.items()):
        size, taken = (statistics.mean(column) for column in zip(*here, strict=True))
        longest = max(longest, taken)  # more never takes less: what is measured so is noise
        points.append((round(size), longest))
    return KernelTimes(launch_s, 0.0, (), tuple(points), 0.0)


def _missed(times: KernelTimes, seen: Sequence[Seen]) -> float:
    """The root of the mean square of relative errors."""
    errors = [times.seconds(each.macs, each.elements) / each.median_s - 1 for each in seen]
    return math.sqrt(statistics.mean(error**2 for error in errors))


def fit(seen: Iterable[Seen]) -> dict[str, KernelTimes]:
    """How long each kind takes, and how far that may be off: by what the fit misses, and by the runs' spread."""
    kinds: dict[str, list[Seen]] = {}
    for each in seen:
        for kind in (each.kind, ANY_PRODUCT) if each.product else (each.kind,):
            kinds.setdefault(kind, []).append(each)
    fitted = {}
    for kind in sorted(kinds):
        of = kinds[kind]
        times = (_product if of[0].product else _other)(of)
        spread = math.hypot(_missed(times, of), statistics.median(each.spread for each in of))
        fitted[kind] = replace(times, spread=spread)
    return fitted
