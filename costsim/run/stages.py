"""A step of a whole pipeline: each stage's time for a micro-batch, played out in the order of the schedule.

A stage's kernels give its time for the forward and the backward of one micro-batch, and for what comes once a step
(sums of gradients over ranks, the update). Sends take their time from the stage that waits for them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from costsim.collector import paused
from costsim.cost.memory import memory
from costsim.cost.row import Row
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel
from costsim.devices.spent import Spent
from costsim.graph.graph import Graph, InFlight, Op, most_in_flight
from costsim.inputs.schema_workload import Parallel
from costsim.parallel.layout import parts_of, stacks_of
from costsim.parallel.schedules import Play, in_flight, play
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.run.job import Job, with_fields
from costsim.run.simulate import count_step
from costsim.run.timing import time_kernels


class Seconds(NamedTuple):
    """What a stage takes for a micro-batch in one chunk of its layers."""

    forward: float
    dgrad: float
    wgrad: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage in a step: seconds a micro-batch by chunk of layers, seconds once a step, bytes at the peak."""

    number: int
    parameters: int
    chunks: tuple[Seconds, ...]
    once_s: float
    in_flight: int  # micro-batches at most, counted in each chunk
    peak_bytes: int

    @property
    def forward_s(self) -> float:
        """Of a micro-batch."""
        return sum(chunk.forward for chunk in self.chunks)

    @property
    def backward_s(self) -> float:
        """Of a micro-batch, with what is made again for it."""
        return sum(chunk.dgrad + chunk.wgrad for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of all stages under a policy in one phase of training, on a device."""

    stages: tuple[Stage, ...]
    send_s: float  # from one stage to the next
    play: Play

    @property
    def time_s(self) -> float:
        """All micro-batches through all stages, then what comes once a step, for which the slowest is waited."""
        return self.play.total_s + max(stage.once_s for stage in self.stages)


def _part(row: Row, op: Op, micro_batches: int) -> str:
    """What of a step a kernel belongs to, by its first op."""
    if any(message.collective == "send" for message in row.messages):
        return "send"
    once = op.phase == "update" or (op.times == 1 < micro_batches)
    if once or any(message.axis in ("data", "expert_data", "tied") and op.times == 1 for message in row.messages):
        return "once"
    if op.phase == "forward":
        return "forward"
    return "wgrad" if row.gemm == "wgrad" else "dgrad"


class Taken(NamedTuple):
    """What a stage takes of a step: a micro-batch in each chunk, all that comes once, and one send."""

    chunks: tuple[Seconds, ...]
    once_s: float
    send_s: float


class Counted(NamedTuple):
    """What is counted of a stage: time, parameters, and the peak with so many micro-batches in flight."""

    taken: Taken
    parameters: int
    peak_bytes: Callable[[InFlight], int]


def taken_by(graph: Graph, timed: Iterable[tuple[Kernel, Spent]]) -> Taken | None:
    """What a stage takes whose kernels take these times; None if something is not known."""
    micro_batches = graph.micro_batches
    chunks = [dict.fromkeys(Seconds._fields, 0.0) for _ in graph.in_flight]
    sends, once_s = dict[tuple[str, int], float](), 0.0
    for kernel, spent in timed:
        if spent.time_s is None:
            return None
        row, op = kernel.first
        part = _part(row, op, micro_batches)
        if part == "once":
            once_s += kernel.number * spent.time_s
            continue
        chunk = graph.chunk_of[op.position] if len(chunks) > 1 else 0
        if part == "send":  # who waits for it waits, whatever overlaps
            sent_s = kernel.number * (spent.link_s or 0.0) / micro_batches
            sends[op.phase, chunk] = sends.get((op.phase, chunk), 0.0) + sent_s
        else:
            chunks[chunk][part] += kernel.number * spent.time_s / micro_batches
    return Taken(tuple(Seconds(**chunk) for chunk in chunks), once_s, max(sends.values(), default=0.0))


def _counted(job: Job, policy: Policy, index: int, device: Hardware) -> Counted | None:
    """What is counted of a stage; None if a time is not known."""
    graph, assignment = job.graph, assign(job.graph, policy, index)
    phase = count_step(graph, assignment, job.convention)
    several = len(graph.in_flight) > 1  # kernels that are alike are of several chunks
    taken = taken_by(graph, time_kernels(job, phase, device, each=several))

    def peak_bytes(flying: InFlight) -> int:
        return memory(graph, assignment, job.convention.traffic, flying).peak_bytes

    return None if taken is None else Counted(taken, graph.parameters, peak_bytes)


def stage_jobs(job: Job) -> list[Job]:
    """The job of each stage. Those between the first and the last with as many layers differ in names only."""
    parallel, known = job.file.parallel, dict[tuple[tuple[str, int], ...], Job]()
    jobs = []
    stacks = stacks_of(job.graph.layers_of, parallel) if parallel.pipeline > 1 else {}
    ends = {end for parts in stacks.values() for end in (min(parts), max(parts))}
    for stage in range(parallel.pipeline):
        own_parts = parts_of(parallel.changed(stage=stage))
        between = ends.isdisjoint(own_parts)
        alike = tuple(
            (stack, len(parts[part])) for stack, parts in stacks.items() for part in own_parts if part in parts
        )
        own = known.get(alike) if between else None
        if own is None:
            own = job if stage == parallel.stage else with_fields(job, [f"parallel.stage={stage}"])
            if between:
                known[alike] = own
        jobs.append(own)
    return jobs


@paused
def step_of(job: Job, policy: Policy, index: int, device: Hardware) -> Step | None:
    """A step of the whole pipeline of a job in a phase of a policy; None if some time is not known on the device."""
    of: dict[int, Counted | None] = {}
    stages = list[Counted]()
    for own in stage_jobs(job):
        if id(own) not in of:
            of[id(own)] = _counted(own, policy, index, device)
        counted = of[id(own)]
        if counted is None:
            return None
        stages.append(counted)
    return played(job.file.parallel, job.convention.micro_batches, stages)


def played(parallel: Parallel, micro_batches: int, counted: Sequence[Counted]) -> Step:
    """The step of stages of which that is counted."""
    stages = []
    for number, (taken, parameters, peak_bytes) in enumerate(counted):
        flying = in_flight(parallel.schedule, number, parallel.pipeline, micro_batches, parallel.chunks)
        most = most_in_flight(flying)
        stages.append(Stage(number, parameters, taken.chunks, taken.once_s, most, peak_bytes(flying)))
    send_s = max(of.taken.send_s for of in counted)
    parts = [stage.chunks[chunk] for chunk in range(parallel.chunks) for stage in stages]
    forward_s, dgrad_s, wgrad_s = zip(*parts, strict=True)
    of_all = play(parallel.schedule, forward_s, dgrad_s, wgrad_s, micro_batches, send_s, parallel.chunks)
    return Step(tuple(stages), send_s, of_all)


def steps_of(job: Job, policy: Policy, device: Hardware) -> list[tuple[int, Step | None]]:
    """By phase of a policy: how many steps it lasts, and one of them."""
    phases = enumerate(schedule(policy, job.convention.steps))
    return [(steps, step_of(job, policy, index, device)) for index, steps in phases]
