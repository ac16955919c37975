"""A step of many layers that are alike, from one of few: each layer more adds what any of those between adds.

Of a stage of a few layers those but the first and the last do the same, have as many parameters and keep as many bytes
at each place of the step; that they do is checked. So one of them says what those that are not built add. What most is
kept of is at either end of a run of layers, so the peak is among the places there, with more layers behind or before.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from costsim.collector import paused
from costsim.cost.memory import Laid, Stored, laid, of_others
from costsim.cost.row import Row
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel
from costsim.graph.fusion import group_ops, grouping
from costsim.graph.graph import Graph, InFlight
from costsim.inputs.schema_workload import Parallel, Trained
from costsim.parallel.layout import layers_of
from costsim.policy.assign import assign, selectors_of
from costsim.policy.classes import LAYERS
from costsim.policy.policy import Policy
from costsim.run.job import Job, with_fields
from costsim.run.simulate import count_step
from costsim.run.stages import Counted, Step, played, taken_by
from costsim.run.timing import Timed, exposed, spender, timed_alone

FEW = 6  # layers of a stage that are built: of each, two of those between are far from it on one side
_FAR = 2  # layers so far apart read nothing of each other, so what is of more layers is of all
_BESIDE = 4  # as many layers take as long to build and to count as all that is beside layers
# What of a glob can match one layer's number and not another: digits that follow no letter, any one character, a class.
_TELLING = re.compile(r"(?<![A-Za-z_0-9])[0-9]|[?]|\[[^]]*[-!0-9]")


_T = TypeVar("_T")


class NotAlikeError(Exception):
    """Layers are not alike after all."""


def _same(values: Iterable[_T]) -> _T:
    """What all of these are. Raises NotAlikeError if they are not the same."""
    first, *others = values
    if any(other != first for other in others):
        raise NotAlikeError
    return first


def _of_one_kind(model: Mapping[str, Any]) -> bool:
    """Whether a model's fields make all its layers alike."""
    patterns = [model.get(name) or () for name in ("windows", "rotated")]
    odd = (model.get("experts") or {}).get("dense_layers")
    return isinstance(model.get("layers"), int) and not odd and all(len(set(of)) <= 1 for of in patterns)


def _globs(job: Job, policy: Policy) -> Iterator[str]:
    """What selects layers, tensors and ops by name, of a workload and a policy."""
    for entry in job.file.training.trainable:
        yield entry.weights if isinstance(entry, Trained) else entry
    yield from (job.file.model.get("lora") or {}).get("targets", ())
    yield from job.file.optimizer.left_out
    yield from job.convention.gemms_left_out
    layer, name, op, *_ = selectors_of(policy)
    yield from (*layer, *name, *op)


def alike(job: Job, policy: Policy) -> bool:
    """Whether nothing tells a layer from others: no field of the model, no name, no table of widths."""
    named = any(_TELLING.search(glob) or glob.startswith(LAYERS) for glob in _globs(job, policy))
    return _of_one_kind(job.file.model) and policy.widths is None and not named


def worth_it(job: Job, parallel: Parallel) -> bool:
    """Whether steps of few layers take less to count than those of all that differ."""
    layers = [len(part) for part in layers_of(job.file.model["layers"], parallel.pipeline)]
    few, distinct = min(parallel.pipeline, 3), min(parallel.pipeline, 2) + len(set(layers[1:-1]))
    fewer = distinct * (min(layers) + _BESIDE) > few * (FEW + _BESIDE)
    return parallel.chunks == 1 and min(layers) >= FEW and fewer


class _Layers(NamedTuple):
    """Of a stage: the layers between the first and the last, and by their numbers what is of which."""

    between: range
    tensors: Mapping[str, int | None]
    ops: Sequence[int | None]  # by position
    near: Sequence[set[int]]  # by position: that of an op, and the one in which it runs

    def each(self, numbers: Sequence[int | None], sizes: Iterable[int] | None = None) -> int:
        """How many things, or how much, each layer between has of those with these numbers. Raises NotAlikeError."""
        sums = dict.fromkeys(self.between, 0)
        for number, size in zip(numbers, sizes or [1] * len(numbers), strict=True):
            if number in sums:
                sums[number] += size
        return _same(sums.values())


def _layers(graph: Graph, own: range) -> _Layers:
    """What is of which layer of a stage that has these.

    An op's name says it, else what it reads: the later one in a sum over layers, as of weights' norms, whose order is
    that of gradients. A tensor's name says it, else the op that makes it. Raises NotAlikeError for an op that reads of
    more layers, and for layers that do not read the same of what is of none.
    """
    if len(graph.stacks) != 1:
        raise NotAlikeError
    stack = f"{next(iter(graph.stacks))}."

    def named(name: str) -> int | None:
        number = name[len(stack) :].partition(".")[0] if name.startswith(stack) else ""
        return int(number) if number.isdigit() else None

    tensors = {name: named(name) for name in graph.tensors}
    beside: dict[int, set[str]] = {i: set() for i in own[1:-1]}
    ops, near = list[int | None](), list[set[int]]()
    for op in graph.ops:
        number = named(op.name)
        if number is None:
            read = {of for name in op.inputs if (of := tensors[name]) is not None}
            if len(read) > _FAR:
                raise NotAlikeError
            number = min(read, default=None)
        elif number in beside:
            beside[number].update(name for name in op.inputs if tensors[name] is None)
        tensors.update({name: number for name in op.outputs if tensors[name] is None})
        ops.append(number)
        near.append({of for of in (number, named(op.layer)) if of is not None})
    _same(beside.values())
    return _Layers(own[1:-1], tensors, ops, near)


class _Few(NamedTuple):
    """The step of a stage that is built, under a policy."""

    job: Job
    layers: _Layers
    timed: Timed  # each kernel by itself
    laid: Laid
    laid_by: Mapping[int, Laid]  # by layer between
    places: Sequence[tuple[int, Sequence[int]]]  # a kernel, and layers between that are far from it, on one side


def _few(job: Job, policy: Policy, index: int, device: Hardware) -> _Few:
    graph, traffic, parallel = job.graph, job.convention.traffic, job.file.parallel
    assignment = assign(graph, policy, index)
    timed = timed_alone(job, count_step(graph, assignment, job.convention), device, each=True)
    layers = _layers(graph, layers_of(job.file.model["layers"], parallel.pipeline)[parallel.stage])
    here, by_layer = laid(graph, assignment, traffic), dict[int | None, list[Stored]]()
    for place in here.stored:
        by_layer.setdefault(layers.tensors[place.tensor], []).append(place)
    near = dict[int, set[int]]()
    for kernel, of in zip(group_ops(graph, traffic), layers.near, strict=True):
        near.setdefault(kernel, set()).update(of)
    places = [(kernel, side) for kernel, of in near.items() for side in _sides(of, layers.between) if side]
    return _Few(job, layers, timed, here, {i: here.part(by_layer[i]) for i in layers.between}, places)


def _sides(near: set[int], between: range) -> Iterator[Sequence[int]]:
    """The layers between that are before a kernel near these, and those behind it, far from it.

    All of them, where it takes something of each.
    """
    if not near or len(near) > _FAR:
        yield between
        return
    yield [i for i in between if i <= min(near) - _FAR]
    yield [i for i in between if i >= max(near) + _FAR]


def _timed(few: _Few, more: int, device: Hardware) -> Timed:
    """The kernels of a step of so many layers more, those that do the same once. Raises NotAlikeError."""
    job, layers, spent_by = few.job, few.layers, spender(few.job, device)
    group = group_ops(job.graph, grouping(job.convention.traffic, job.convention.scope))
    of_kernel = dict[int, set[int]]()
    for at, of in zip(group, layers.ops, strict=True):
        of_kernel.setdefault(at, set()).update(() if of is None else (of,))
    alike: dict[tuple[int, ...], Timed] = {}
    for kernel, spent in few.timed:
        alike.setdefault(tuple([id(row) for row in kernel.rows]), []).append((kernel, spent))
    timed = []
    for same in alike.values():
        kernel, spent = same[0]
        row, op = kernel.first
        if row.cast is None and len(of_kernel[group[op.position]]) > _FAR:
            _same([len(same), 1])
            kernel = kernel._replace(rows=_rows(kernel, layers, group, more))
            spent = spent_by(kernel)
        else:
            numbers = [layers.ops[one.first[1].position] for one, _ in same]
            kernel = kernel._replace(number=len(same) + more * layers.each(numbers))
        timed.append((kernel, spent))
    return timed


def _rows(kernel: Kernel, layers: _Layers, group: Sequence[int], more: int) -> tuple[Row, ...]:
    """The rows of a kernel that takes something of each layer, as a sum of all weights' norms does, of so many more.

    Raises NotAlikeError; also for products and messages, whose times are summed in order.
    """
    own = group[kernel.first[1].position]
    made: list[Row] = []
    for row in {id(row): row for row in kernel.rows}.values():
        if row.messages or row.macs:
            raise NotAlikeError
        numbers = [layers.ops[op.position] for op in row.ops if group[op.position] == own]
        made += [row] * (len(numbers) + more * layers.each(numbers))
    return tuple(made)


def _peak(few: _Few, more: int) -> Callable[[InFlight], int]:
    """The peak, in bytes, of a step of so many layers more, by what is in flight. Raises NotAlikeError."""
    here, by_layer = few.laid, few.laid_by
    most = {True: 0, False: 0}  # in a micro-batch's own time, to which others add, and in the update
    for kernel, side in few.places:
        size = here.live[kernel] + more * _same([by_layer[i].live[kernel] for i in side])
        most[kernel in here.chunk_of] = max(most[kernel in here.chunk_of], size)
    kept = here.kept[0] + more * _same([of.kept[0] for of in by_layer.values()])  # in the one chunk that there is

    def peak_bytes(flying: InFlight) -> int:
        return max(most[False], most[True] + of_others(flying, {0: kept})[0])

    return peak_bytes


def _counted(few: _Few, layers: int, device: Hardware) -> Counted | None:
    """What is counted of a stage of so many layers; None if some time is not known. Raises NotAlikeError."""
    graph, more = few.job.graph, layers - FEW
    taken = taken_by(graph, exposed(_timed(few, more, device), device))
    if taken is None:
        return None
    weights = graph.weights
    numbers, sizes = [few.layers.tensors[of.name] for of in weights], [graph.elements(of.dims) for of in weights]
    return Counted(taken, graph.parameters + more * few.layers.each(numbers, sizes), _peak(few, more))


def few_jobs(job: Job, sets: Sequence[str], stages: int) -> list[Job]:
    """The steps to build of a job with these fields: of the first stage, one between, the last. Raises InputError."""
    numbers = sorted({0, min(1, stages - 1), stages - 1})
    return [with_fields(job, [*sets, f"parallel.stage={stage}", f"model.layers={stages * FEW}"]) for stage in numbers]


@paused
def step_from_few(jobs: Sequence[Job], layers: int, policy: Policy, index: int, device: Hardware) -> Step | None:
    """The step of so many layers, as `step_of` has it, from the jobs that `few_jobs` makes. Raises NotAlikeError."""
    parallel = jobs[0].file.parallel
    kinds = [_few(job, policy, index, device) for job in jobs]
    known: dict[tuple[int, int], Counted | None] = {}
    stages = []
    for number, part in enumerate(layers_of(layers, parallel.pipeline)):
        kind = 0 if number == 0 else len(jobs) - 1 if number == parallel.pipeline - 1 else 1
        if (kind, len(part)) not in known:
            known[kind, len(part)] = _counted(kinds[kind], len(part), device)
        counted = known[kind, len(part)]
        if counted is None:
            return None
        stages.append(counted)
    return played(parallel, jobs[0].convention.micro_batches, stages)
