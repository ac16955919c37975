"""A step of a whole pipeline: each stage's time for a micro-batch, played out in the order of the schedule.

A stage's kernels give its time for the forward and the backward of one micro-batch, and for what comes once a step
(sums of gradients over ranks, the update). Sends take their time from the stage that waits for them.
"""

from dataclasses import dataclass, replace

from costsim.cost.memory import memory
from costsim.cost.row import Row
from costsim.devices.profile import Hardware
from costsim.graph.graph import Op
from costsim.parallel.layout import in_flight, layers_of
from costsim.policy.assign import Assignment, assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.run.job import Job, with_fields
from costsim.run.pipeline import Play, play
from costsim.run.simulate import count_step
from costsim.run.timing import time_kernels


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage in a step: seconds a micro-batch, seconds once a step, bytes at the peak."""

    number: int
    parameters: int
    forward_s: float
    dgrad_s: float
    wgrad_s: float
    once_s: float
    peak_bytes: int

    @property
    def backward_s(self) -> float:
        """Of a micro-batch, with what is made again for it."""
        return self.dgrad_s + self.wgrad_s


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


def _seconds(job: Job, policy: Policy, index: int, device: Hardware) -> dict[str, float] | None:
    """By part of a step: what a stage takes, of a micro-batch or once; None if something is not known."""
    micro_batches = job.convention.micro_batches
    phase = count_step(job.graph, assign(job.graph, policy, index), job.convention)
    seconds = dict.fromkeys(("forward", "dgrad", "wgrad", "once", "send"), 0.0)
    for kernel, spent in time_kernels(job, phase, device):
        if spent.time_s is None:
            return None
        part = _part(*kernel.first, micro_batches)
        time_s = (spent.link_s or 0.0) if part == "send" else spent.time_s  # who waits for it waits, whatever overlaps
        seconds[part] += kernel.number * time_s / (1 if part == "once" else micro_batches)
    return seconds


def stage_jobs(job: Job) -> list[Job]:
    """The job of each stage. Those between the first and the last with as many layers differ in names only."""
    parallel, known = job.file.parallel, dict[int, Job]()
    jobs = []
    for stage, layers in enumerate(layers_of(job.file.model.get("layers", 1), parallel.pipeline)):
        between = 0 < stage < parallel.pipeline - 1
        own = known.get(len(layers)) if between else None
        if own is None:
            own = job if stage == parallel.stage else with_fields(job, [f"parallel.stage={stage}"])
            if between:
                known[len(layers)] = own
        jobs.append(own)
    return jobs


def _peak_bytes(job: Job, stage: int, assignment: Assignment) -> int:
    """Of a stage, from the job of one that is alike: other micro-batches are in flight."""
    flying = in_flight(job.file.parallel.changed(stage=stage), job.convention.micro_batches)
    graph = job.graph if job.graph.in_flight == flying else replace(job.graph, in_flight=flying)
    return memory(graph, assignment, job.convention.traffic).peak_bytes


def step_of(job: Job, policy: Policy, index: int, device: Hardware) -> Step | None:
    """A step of the whole pipeline of a job in a phase of a policy; None if some time is not known on the device."""
    of: dict[int, dict[str, float] | None] = {}
    stages, send_s = [], 0.0
    for number, own in enumerate(stage_jobs(job)):
        if id(own) not in of:
            of[id(own)] = _seconds(own, policy, index, device)
        seconds = of[id(own)]
        if seconds is None:
            return None
        peak_bytes = _peak_bytes(own, number, assign(own.graph, policy, index))
        times = {f"{part}_s": seconds[part] for part in ("forward", "dgrad", "wgrad", "once")}
        stages.append(Stage(number, own.graph.parameters, peak_bytes=peak_bytes, **times))
        send_s = max(send_s, seconds["send"])
    forward_s, dgrad_s, wgrad_s = zip(*((of.forward_s, of.dgrad_s, of.wgrad_s) for of in stages), strict=True)
    played = play(job.file.parallel.schedule, forward_s, dgrad_s, wgrad_s, job.convention.micro_batches, send_s)
    return Step(tuple(stages), send_s, played)


def steps_of(job: Job, policy: Policy, device: Hardware) -> list[tuple[int, Step | None]]:
    """By phase of a policy: how many steps it lasts, and one of them."""
    phases = enumerate(schedule(policy, job.convention.steps))
    return [(steps, step_of(job, policy, index, device)) for index, steps in phases]
