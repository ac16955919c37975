"""A step of many layers that are alike, from steps of few: each layer adds what the others add.

With each layer more, as many kernels more do the same, a stage has as many parameters more, and at each place of a step
as many bytes more lie in memory. So numbers of steps of three, four and five layers a stage say those of any more,
exactly; that the three lie on a line is checked. What most is kept of is at either end of a run of layers, so the peak
is among the places that the fewest layers have, seen from both ends.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from costsim.collector import paused
from costsim.cost.memory import Laid, laid
from costsim.cost.row import Row
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel
from costsim.devices.spent import Spent
from costsim.graph.fusion import group_ops
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

FEW = (3, 4, 5)  # layers of a stage, of the steps that are built
_BESIDE = 4  # as many layers take as long to build and to count as all that is beside layers
# What of a glob can match one layer's number and not another: digits that follow no letter, any one character, a class.
_TELLING = re.compile(r"(?<![A-Za-z_0-9])[0-9]|[?]|\[[^]]*[-!0-9]")
_NUMBER = re.compile(r"[0-9]+")


class NotAlikeError(Exception):
    """Layers are not alike after all."""


def _line(values: Sequence[int], layers: int) -> int:
    """The value at so many layers of what is on a line, given those at `FEW`. Raises NotAlikeError if it is on none."""
    first, second, third = values
    if third - second != second - first:
        raise NotAlikeError
    return first + (layers - FEW[0]) * (second - first)


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
    return parallel.chunks == 1 and distinct * (min(layers) + _BESIDE) > few * (sum(FEW) + len(FEW) * _BESIDE)


class _Few(NamedTuple):
    """One of the steps that are built, under a policy."""

    graph: Graph
    timed: Timed
    laid: Laid
    kernels: Sequence[tuple[int, str]]  # in order: in memory's time, and what they are called but for numbers


def _few(job: Job, policy: Policy, index: int, device: Hardware) -> _Few:
    graph, traffic, assignment = job.graph, job.convention.traffic, assign(job.graph, policy, index)
    group, timed = group_ops(graph, traffic), timed_alone(job, count_step(graph, assignment, job.convention), device)
    names = {group[op.position]: _NUMBER.sub("", op.name) for op in reversed(graph.ops)}
    return _Few(graph, timed, laid(graph, assignment, traffic), sorted(names.items()))


def _timed(steps: Sequence[_Few], layers: int, spent_by: Callable[[Kernel], Spent]) -> Timed:
    """The kernels of a step of so many layers, which all are in order of those of few. Raises NotAlikeError."""
    if len({len(step.timed) for step in steps}) > 1:
        raise NotAlikeError
    timed = []
    for same in zip(*(step.timed for step in steps), strict=True):
        kernel, spent = same[0]
        if len({_NUMBER.sub("", one.first[1].name) for one, _ in same}) > 1:
            raise NotAlikeError
        own = kernel._replace(number=_line([one.number for one, _ in same], layers))
        if any(other != spent for _, other in same):
            own = own._replace(rows=_rows([one.rows for one, _ in same], layers))
            spent = spent_by(own)
        timed.append((own, spent))
    return timed


def _rows(few: Sequence[Sequence[Row]], layers: int) -> tuple[Row, ...]:
    """The rows of a kernel that takes something of each layer, as a sum of all weights' norms does.

    Raises NotAlikeError; also for products and messages, whose times are summed in order.
    """
    numbers = [Counter(map(id, rows)) for rows in few]
    distinct = [list({id(row): row for row in rows}.values()) for rows in few]
    if len({len(rows) for rows in distinct}) > 1:
        raise NotAlikeError
    made: list[Row] = []
    for same in zip(*distinct, strict=True):
        if len({_moved(row) for row in same}) > 1 or same[0].messages or same[0].macs:
            raise NotAlikeError
        made += [same[0]] * _line([of[id(row)] for of, row in zip(numbers, same, strict=True)], layers)
    return tuple(made)


def _moved(row: Row) -> tuple[Any, ...]:
    """What a row without products does, for comparison."""
    return row.kind, tuple(row.vector.items()), tuple((move.read_bits, move.written_bits) for move in row.moves)


def _live(step: _Few, flying: InFlight) -> dict[str, list[int]]:
    """By name of a kernel but for numbers: what lies in memory while each of these runs, in their order."""
    size_bytes, live = step.laid.with_others(flying), dict[str, list[int]]()
    for kernel, name in step.kernels:
        live.setdefault(name, []).append(size_bytes[kernel])
    return live


def _places(few: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    """The values of kernels in all of the steps, as far from either end but for the layer at the other.

    Raises NotAlikeError if not as many come with each layer.
    """
    each = _line([len(values) for values in few], FEW[0] + 1) - len(few[0])
    for way in (1, -1):
        yield from zip(*(values[::way][: len(few[0]) - each] for values in few), strict=True)


def _peak_bytes(steps: Sequence[_Few], layers: int, flying: InFlight) -> int:
    live = [_live(step, flying) for step in steps]
    if len({tuple(sorted(of)) for of in live}) > 1:
        raise NotAlikeError
    return max(_line(place, layers) for name in live[0] for place in _places([of[name] for of in live]))


def _counted(steps: Sequence[_Few], layers: int, job: Job, device: Hardware) -> Counted | None:
    """What is counted of a stage of so many layers; None if some time is not known. Raises NotAlikeError."""
    taken = taken_by(steps[0].graph, exposed(_timed(steps, layers, spender(job, device)), device))

    def peak_bytes(flying: InFlight) -> int:
        return _peak_bytes(steps, layers, flying)

    if taken is None:
        return None
    return Counted(taken, _line([step.graph.parameters for step in steps], layers), peak_bytes)


def few_jobs(job: Job, sets: Sequence[str], stages: int) -> list[list[Job]]:
    """The steps to build of a job with these fields: of the first stage, one between, the last. Raises InputError."""
    numbers = sorted({0, min(1, stages - 1), stages - 1})
    return [
        [with_fields(job, [*sets, f"parallel.stage={stage}", f"model.layers={stages * few}"]) for few in FEW]
        for stage in numbers
    ]


@paused
def step_from_few(
    jobs: Sequence[Sequence[Job]], layers: int, policy: Policy, index: int, device: Hardware
) -> Step | None:
    """The step of so many layers, as `step_of` has it, from the jobs that `few_jobs` makes. Raises NotAlikeError."""
    convention, parallel = jobs[0][0].convention, jobs[0][0].file.parallel
    steps = [[_few(job, policy, index, device) for job in of] for of in jobs]
    known: dict[tuple[int, int], Counted | None] = {}
    stages = []
    for number, part in enumerate(layers_of(layers, parallel.pipeline)):
        kind = 0 if number == 0 else len(jobs) - 1 if number == parallel.pipeline - 1 else 1
        if (kind, len(part)) not in known:
            known[kind, len(part)] = _counted(steps[kind], len(part), jobs[kind][0], device)
        counted = known[kind, len(part)]
        if counted is None:
            return None
        stages.append(counted)
    return played(parallel, convention.micro_batches, stages)
